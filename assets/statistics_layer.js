// Layer view of the Statistics tab: channels, distribution under a grid, what caused the largest values, the input after smoothing.
window.quantuiStatisticsViews ??= {};
quantuiStatisticsViews.layer = class {
  // What the address forgets with another tensor: the parts of the axes that were looked at closer.
  static whole = { channels: undefined, spread: undefined, smooth: undefined };

  constructor(bench, body) {
    this.bench = bench;
    this.body = body;
    this.chart = (name) => body.querySelector(`[data-chart="${name}"]`);
    this.stat = (name) => body.querySelector(`[data-stats="${name}"]`);
    this.control = (name) => body.querySelector(`[data-set="${name}"]`);
    this.listen();
  }

  get set() {
    return this.bench.set;
  }

  get role() {
    return this.set.role === "output" ? "output" : "input";
  }

  get order() {
    return this.set.order === "number" ? "number" : "size";
  }

  // What is asked for a layer, with what its parts need.
  get asked() {
    const { scheme, clip, weight } = this.set;
    const { layer, channel } = this.set.layer ? this.set : this.bench.views.overview.loudest ?? {};
    const [left, right] = quantuiCharts.seen(this.set.channels) ?? [];
    const part = right === undefined ? {} : { first: Math.floor(left), last: Math.ceil(right) + 1 };
    return { layer, role: this.role, channel, scheme, clip, order: this.order, weight, ...part };
  }

  // Asks for what a click will show, as soon as a hand is near.
  fetch(row = {}) {
    return this.bench.read({ action: "layer", ...this.asked, ...(row.layer && { layer: row.layer, channel: row.channel, first: undefined, last: undefined }) });
  }

  async show(ahead = false) {
    const told = await this.fetch();
    if (!this.bench.took(told, "layer", ahead)) return;
    if (!ahead) {
      this.bench.change({ layer: told.layer, channel: String(told.channel) });
      this.bench.kept.set(this.bench.key({ action: "layer", ...this.asked }), told); // asked by its name it is the same
    }
    const drawn = JSON.stringify([this.bench.made, this.asked, this.set.log]);
    if (told !== this.told || drawn !== this.drawn) this.painting = this.paint(told, drawn);
    await this.painting;
    this.reveal();
  }

  async paint(told, drawn) {
    Object.assign(this, { told, drawn, line: told.line });
    this.fields();
    this.chart("channels").querySelector("[data-chart-title]").textContent = told.title;
    this.chart("channels").querySelector(".chart-good").textContent = told.good;
    await this.channels();
    this.mark();
    quantuiCharts.later(() => {
      if (told !== this.told) return;
      this.distribution(told);
      this.smooth();
    });
  }

  fields() {
    const pick = this.stat("layer");
    if (pick.length !== this.told.names.length || pick.dataset.table !== this.set.table) {
      pick.replaceChildren(...this.told.names.map(([value, text]) => new Option(text, value)));
      pick.dataset.table = this.set.table;
    }
    const drawn = this.control("weight");
    const schemes = this.told.schemes.map((name) => new Option(`${drawn.dataset.lost} · ${name}`, name));
    if (drawn.length !== schemes.length + 1) drawn.replaceChildren(drawn.options[0], ...schemes);
    drawn.hidden = !this.told.schemes.length;
    this.bench.hold(drawn, this.told.weight);
    this.bench.hold(pick, this.told.layer);
    this.bench.hold(this.control("role"), this.role);
    this.bench.hold(this.control("scheme"), this.set.scheme);
    this.bench.hold(this.control("clip"), this.set.clip);
    this.control("log").checked = this.set.log !== "0";
    this.control("log").parentElement.hidden = Boolean(this.told.weight); // errors of one weight are of one size
    this.control("order").checked = this.order === "size";
    this.control("strength").value = this.set.strength ?? 0.5;
  }

  // --- channels -------------------------------------------------------------------------------------------------------------
  channels() {
    const { line } = this;
    const { layer, weight } = this.told; // drawn is what rounding the weight to that scheme loses, or the values that went through
    const [name, rank, value] = weight ? ["lostChannel", "lostRank", "lost"] : ["channel", "rank", "value"];
    const fold = quantuiCharts.fold(this.set.log === "0" || weight ? 0 : quantuiCharts.unit(line.high.map((v, i) => Math.max(Math.abs(v), Math.abs(line.low[i])))));
    const x = line.channel.map((_, i) => line.first + i * line.size);
    const build = (c) => {
      const shape = { type: "scatter", mode: "lines", x, hoverinfo: "skip" };
      const steps = { shape: "hv", width: 1.5 };
      const color = weight ? (parseInt(weight.replace(/^\D+/, ""), 10) > 4 ? c.bits8 : c.bits4) : c.kind[this.kind] ?? c.first;
      const share = weight ? " %" : "";
      const reach = line.low.map((low, i) => [...new Set([low, line.high[i]])].map((end) => quantuiCharts.short(end) + share).join(" … "));
      const mean = { ...shape, y: line.mean.map(fold.to), line: { ...steps, color: c.text, width: 1, dash: "dot" } };
      return {
        data: [
          { ...shape, y: line.low.map(fold.to), line: { ...steps, color } },
          {
            ...shape, y: line.high.map(fold.to), line: { ...steps, color }, fill: "tonexty", fillcolor: quantuiCharts.fade(color, 0.2),
            hoverinfo: undefined, hoveron: "points", customdata: line.channel, text: reach.map((text, i) => (line.low[i] < line.high[i] ? `${text}<br>⌀ ${quantuiCharts.short(line.mean[i])}${share}` : text)),
            hovertemplate: `<b>%{customdata}</b><br>%{text}${line.size > 1 ? `<br>Σ ${line.size}` : ""}<extra></extra>`,
          },
          ...(weight && line.size === 1 ? [] : [mean]), // it would cover the only line
        ],
        layout: {
          hovermode: "x", hoverdistance: 40, margin: { l: 68, r: 12, t: 8, b: 40 },
          xaxis: { range: [line.first - 0.5, line.last - 0.5 + (line.size - 1)], showgrid: false, zeroline: false, title: { text: this.words[this.order === "size" ? rank : name] } },
          yaxis: { ...fold.ticks([...line.low, ...line.high]), title: { text: this.words[value] }, rangemode: weight ? "tozero" : "normal" },
        },
      };
    };
    return quantuiCharts.draw(this.chart("channels"), build, {
      file: `${layer}-${weight ? "weight" : this.role}`,
      csv: async () => {
        const told = await this.bench.ask({ action: "export", ...this.asked });
        return told?.csv ?? null;
      },
      click: weight ? null : (event) => this.choose(event.points[0].customdata),
      hover: (event) => this.point(event ? event.points[0].customdata : null),
      seen: quantuiCharts.seen(this.set.channels),
      zoom: (seen) => this.zoom(seen),
    });
  }

  get kind() {
    return this.told.kind;
  }

  get words() {
    return this.stat("layer").dataset;
  }

  // Looked at closer, a stretch of joined channels is asked for anew.
  zoom(seen) {
    const joined = this.line.channel.length < this.line.count;
    this.bench.change({ channels: (joined ? seen?.slice(0, 2) : seen)?.join("_") });
    if (joined) this.again();
    else this.mark();
  }

  place(channel) {
    const at = this.line.channel.indexOf(Number(channel));
    return at < 0 ? null : this.line.first + at * this.line.size + (this.line.size - 1) / 2;
  }

  mark(channel = this.told.weight ? null : this.set.channel ?? this.told.channel) {
    const at = channel === null ? null : this.place(channel);
    quantuiCharts.mark(this.chart("channels"), at === null ? [] : [at], this.line.size);
  }

  point(channel) {
    for (const row of this.body.querySelectorAll("tr[data-channel]")) row.classList.toggle("pointed", Number(row.dataset.channel) === channel);
  }

  async choose(channel) {
    this.bench.change({ channel: String(channel) });
    for (const row of this.body.querySelectorAll(".outliers tbody tr")) {
      if (Number(row.dataset.channel) === Number(channel)) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
    this.mark();
    this.bench.took(await this.bench.read({ action: "cause", ...this.asked }));
    this.reveal();
  }

  // The marked word stands in the middle of its text; the page itself stays where it is.
  reveal() {
    const word = this.body.querySelector("mark");
    if (word) word.parentElement.scrollTop = word.offsetTop - word.parentElement.offsetTop - word.parentElement.clientHeight / 2;
  }

  // --- distribution ---------------------------------------------------------------------------------------------------------
  distribution({ spread, fit }) {
    const figure = this.chart("spread");
    figure.classList.toggle("chart-nothing", !spread);
    this.stat("no-spread").hidden = Boolean(spread);
    this.stat("fit").textContent = fit;
    if (!spread) return;
    quantuiCharts.histogram(figure, spread, { ...this.words, file: `${this.told.layer}-${this.role}-distribution` }, this.bench.zoom("spread"));
  }

  async spread() {
    const told = await this.bench.read({ action: "spread", ...this.asked });
    if (told && !told.problem) this.distribution(told);
  }

  // --- smoothing ------------------------------------------------------------------------------------------------------------
  async smooth() {
    const strength = Number(this.control("strength").value); // whatever the address says, from 0 to 1
    this.stat("strength").textContent = strength.toFixed(2);
    const figure = this.chart("smooth");
    const words = this.stat("smooth-words").dataset;
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const asked = { action: "smooth", layer: this.told.layer, role: "input", strength };
    const told = this.role === "input" ? await this.bench.read(asked) : { wrong: words.inputs };
    if (turn !== this.turn) return;
    const slot = this.stat("no-smooth");
    figure.classList.toggle("chart-nothing", !told?.smooth);
    figure.querySelector("[data-chart-title]").textContent = told?.title ?? words.title;
    slot.innerHTML = told?.wrong ?? ""; // markup of the server, made of escaped text
    this.stat("unusual").textContent = told?.usual ?? "";
    if (!told?.smooth) return;
    const made = told.smooth;
    const x = made.before.map((_, i) => i * made.size);
    const build = (c) => {
      const lines = [
        ["before", words.before, c.float, "solid"], ["after", words.after, c.first, "solid"],
        ["weight_before", words.weightBefore, c.float, "dot"], ["weight_after", words.weightAfter, c.second, "dot"],
      ];
      return {
        data: lines.map(([key, name, color, dash]) => ({
          type: "scatter", mode: "lines", x, y: made[key], name, line: { color, dash, width: 1.5 }, hovertemplate: `${name}: %{y:.4~g}<extra></extra>`,
        })),
        layout: {
          showlegend: true, hovermode: "x unified", margin: { l: 56, r: 12, t: 44, b: 40 },
          xaxis: { title: { text: this.words.rank }, showgrid: false, zeroline: false },
          yaxis: { type: "log", ...quantuiCharts.powers, dtick: 1, title: { text: words.axis } },
        },
      };
    };
    quantuiCharts.draw(figure, build, {
      ...this.bench.zoom("smooth"), file: `${this.told.layer}-smoothed`,
      csv: () => ({ columns: ["rank", "before", "after", "weight_before", "weight_after"], rows: x.map((at, i) => [at, made.before[i], made.after[i], made.weight_before[i], made.weight_after[i]]) }),
    });
  }

  // The layer so many places further; empty where there is none.
  beside(step) {
    const { names, layer } = this.told;
    return names[names.findIndex(([name]) => name === layer) + Number(step)]?.[0] ?? "";
  }

  // Asks for the layers that the buttons lead to while nobody waits.
  neighbours() {
    for (const step of [1, -1]) if (this.told && this.beside(step)) this.fetch({ layer: this.beside(step) });
  }

  // --- doing ----------------------------------------------------------------------------------------------------------------
  go(layer) {
    this.bench.change({ layer, channel: undefined, ...quantuiStatisticsViews.layer.whole });
    this.bench.show();
  }

  listen() {
    this.body.addEventListener("pointerover", (event) => {
      const step = event.target.closest("[data-step]");
      const row = event.target.closest(".lost tr[data-channel]");
      if (this.told?.weight) this.mark(row?.dataset.channel);
      if (step) this.fetch({ layer: this.beside(step.dataset.step) });
    });
    this.stat("layer").addEventListener("change", (event) => this.go(event.target.value));
    this.body.addEventListener("click", (event) => {
      const step = event.target.closest("[data-step]");
      const row = event.target.closest(".outliers tbody tr");
      if (step) {
        const layer = this.beside(step.dataset.step);
        if (layer) this.go(layer);
      } else if (row) this.choose(row.dataset.channel);
    });
    this.body.addEventListener("change", (event) => {
      const { set } = event.target.dataset;
      const { value, checked } = event.target;
      if (set === "role") {
        this.bench.change({ role: value === "output" ? value : undefined, channel: undefined, ...quantuiStatisticsViews.layer.whole });
        this.bench.show();
      } else if (set === "weight") {
        this.bench.change({ weight: value, channels: undefined });
        this.bench.show();
      } else if (set === "log" || set === "order") {
        this.bench.change(set === "log" ? { log: checked ? undefined : "0" } : { order: checked ? undefined : "number" });
        this.bench.change({ channels: undefined }); // the axes become others
        this.again();
      } else if (set === "scheme" || set === "clip") {
        this.bench.change({ [set]: value });
        this.spread();
      } else if (set === "strength") this.bench.change({ strength: value });
    });
    this.body.addEventListener("input", (event) => {
      if (event.target.dataset.set !== "strength") return;
      this.set.strength = event.target.value;
      this.smooth();
    });
  }

  // Asks for the channels anew.
  async again() {
    const told = await this.bench.read({ action: "line", ...this.asked });
    if (!told?.line) return;
    this.line = told.line;
    await this.channels();
    this.mark();
  }
};
