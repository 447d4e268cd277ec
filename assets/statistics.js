// The Statistics tab: which table is shown, how one comes to be, and its views. What is looked at stands in the address, so that
// a link opens the same view. Each view is an object of its own in quantuiStatisticsViews.
window.quantuiStatisticsViews = {};
window.quantuiStatistics = (() => {
  const PREFIX = "st.";
  const FALLBACK = { view: "overview" };

  class Bench {
    constructor(root, server, props) {
      this.root = root;
      this.server = server;
      this.props = props;
      this.model = null;
      this.kept = new Map(); // what was answered, by what was asked: a table does not change
      this.set = this.address();
      this.views = {};
      for (const [name, View] of Object.entries(quantuiStatisticsViews)) {
        if (this.body(name)) this.views[name] = new View(this, this.body(name));
      }
      this.listen();
      this.look();
    }

    get picked() {
      try {
        return JSON.parse(this.props.value || "{}");
      } catch {
        return {};
      }
    }

    find(name) {
      return this.root.querySelector(`[data-stats="${name}"]`);
    }

    body(name) {
      return this.root.querySelector(`[data-body="${name}"]`);
    }

    part(name) {
      return this.root.querySelector(`[data-part="${name}"]`);
    }

    // --- the address --------------------------------------------------------------------------------------------------------
    address() {
      const set = { ...FALLBACK };
      for (const [key, value] of new URLSearchParams(location.search)) if (key.startsWith(PREFIX)) set[key.slice(PREFIX.length)] = value;
      return set;
    }

    remember() {
      if (!this.root.offsetParent) return; // another tab is open
      const query = new URLSearchParams(location.search);
      for (const key of [...query.keys()]) if (key.startsWith(PREFIX)) query.delete(key);
      for (const [key, value] of Object.entries(this.set)) {
        if (value !== undefined && value !== null && value !== "") query.set(PREFIX + key, value);
      }
      query.set("tab", "statistics");
      query.delete("__theme");
      query.delete("lang");
      history.replaceState(history.state, "", `${location.pathname}?${query}`);
    }

    // Changes what is looked at; undefined takes something back.
    change(set) {
      Object.assign(this.set, set);
      this.remember();
    }

    // --- asking -------------------------------------------------------------------------------------------------------------
    async ask(asked) {
      try {
        return await this.server.answer({ ...this.picked, table: this.set.table ?? "", ...asked });
      } catch (error) {
        console.warn(error); // the page's monitor says that the server is away
        return undefined;
      }
    }

    // The same for what a table always answers alike.
    async read(asked) {
      const key = JSON.stringify([this.set.table, this.made, asked]);
      if (!this.kept.has(key)) {
        const told = await this.ask(asked);
        if (!told || told.problem) return told;
        this.kept.set(key, told);
        if (this.kept.size > 60) this.kept.delete(this.kept.keys().next().value);
      }
      return this.kept.get(key);
    }

    async look() {
      const { model } = this.picked;
      // Another model in the rail shows its own newest table, not what was looked at before.
      const table = this.model !== null && this.model !== model ? "" : this.set.table ?? "";
      this.model = model;
      const told = await this.ask({ action: "look", table, detail: this.find("detail").checked });
      if (!told) return;
      if (told.problem) return this.say(told.problem);
      this.fill(told.parts);
      this.root.querySelector('[data-do="collect"]').disabled = !told.can;
      const select = this.find("table");
      select.replaceChildren(...told.tables.map(([value, text]) => new Option(text, value)));
      select.value = told.table;
      select.closest(".stats-table").hidden = !told.tables.length;
      this.root.classList.toggle("stats-empty", !told.table);
      const same = told.table === this.set.table && told.made === this.made;
      if (told.table !== this.set.table && this.set.table) this.forget();
      this.made = told.made;
      this.detail = told.detail;
      this.set.table = told.table || undefined;
      this.root.dataset.ready = told.table;
      if (told.table && !(same && this.shown)) await this.show();
      if (!told.table) for (const body of this.root.querySelectorAll("[data-body]")) body.hidden = true;
    }

    // Another table: nothing that was picked in the old one holds.
    forget() {
      for (const key of Object.keys(this.set)) if (!["view", "table", "log", "role"].includes(key)) delete this.set[key];
      this.shown = null;
    }

    fill(parts = {}) {
      for (const [name, html] of Object.entries(parts)) {
        const slot = this.part(name);
        if (!slot) continue;
        const template = document.createElement("template");
        template.innerHTML = html;
        slot.replaceChildren(template.content);
      }
    }

    say(html) {
      this.fill({ message: html });
    }

    // --- showing ------------------------------------------------------------------------------------------------------------
    async show() {
      const name = this.views[this.set.view] ? this.set.view : FALLBACK.view;
      for (const body of this.root.querySelectorAll("[data-body]")) body.hidden = body.dataset.body !== name;
      for (const button of this.root.querySelectorAll("[data-view]")) button.setAttribute("aria-selected", button.dataset.view === name);
      this.shown = name;
      this.remember();
      const began = performance.now();
      await this.views[name].show();
      this.root.dataset.shown = name;
      performance.mark(`statistics ${name}`); // what bench/stats_page.py waits for
      this.root.dataset.took = Math.round(performance.now() - began);
    }

    // Answers of a view: what went wrong is said above it.
    took(told) {
      if (!told) return false;
      this.fill({ message: told.problem ?? "" });
      if (!told.problem) this.fill(told.parts);
      return !told.problem;
    }

    open(layer, channel) {
      if (!this.views.layer) return;
      this.change({ view: "layer", layer, channel });
      this.show();
    }

    async collect() {
      const button = this.root.querySelector('[data-do="collect"]');
      button.disabled = true; // a second click would start the same job twice
      const told = await this.ask({ action: "collect", detail: this.find("detail").checked });
      this.root.classList.toggle("stats-follow", Boolean(told?.run));
      if (told?.run) quantui.open(told.run);
      else if (told?.problem) this.say(told.problem);
      this.set.table = undefined; // what the job makes is shown when it is there
      this.look();
    }

    listen() {
      this.root.addEventListener("click", (event) => {
        const view = event.target.closest("[data-view]");
        if (view) {
          this.change({ view: view.dataset.view });
          this.show();
        }
        if (event.target.closest('[data-do="collect"]:not(:disabled)')) this.collect();
      });
      this.find("table").addEventListener("change", (event) => {
        this.forget();
        this.set.table = event.target.value;
        this.look();
      });
      this.find("detail").addEventListener("change", () => this.look());
      document.addEventListener("click", (event) => {
        const tab = event.target.closest?.("[role=tab][data-tab-id]");
        if (!tab) return;
        if (tab.dataset.tabId === "statistics") setTimeout(() => this.look().then(() => this.remember()), 30);
        else this.clean();
      });
    }

    // The address of another tab says nothing of this one.
    clean() {
      const query = new URLSearchParams(location.search);
      for (const key of [...query.keys()]) if (key.startsWith(PREFIX)) query.delete(key);
      history.replaceState(history.state, "", `${location.pathname}?${query}`);
    }
  }

  // Called once by the tab's link (tabs/statistics.py), which may be there before the frame is.
  function start(props, server, watch) {
    let bench = null;
    quantuiCharts.load().catch(console.warn); // while the first answer is on its way
    const attach = () => {
      const root = document.querySelector('[data-stats="root"]');
      if (root && props.value) bench = new Bench(root, server, props);
      else setTimeout(attach, 30);
    };
    watch("value", () => bench?.look());
    attach();
  }

  return { start };
})();

// --- Overview: the range of every layer, and the channels that stand out ------------------------------------------------------
quantuiStatisticsViews.overview = class {
  constructor(bench, body) {
    this.bench = bench;
    this.body = body;
    this.chart = body.querySelector('[data-chart="ranges"]');
    this.hidden = new Set((bench.set.without ?? "").split(".").filter(Boolean));
    this.listen();
  }

  get log() {
    return this.bench.set.log !== "0"; // outliers are a hundred times the rest: without it the rest is a line
  }

  get role() {
    return this.bench.set.role === "output" ? "output" : "input";
  }

  async show() {
    for (const input of this.body.querySelectorAll("[data-set]")) {
      if (input.type === "checkbox") input.checked = this.log;
      else input.value = this.role;
    }
    const told = await this.bench.read({ action: "overview", role: this.role });
    if (!this.bench.took(told)) return;
    this.told = told;
    this.chart.querySelector("[data-chart-title]").textContent = told.title;
    this.key();
    this.above = Number(this.bench.set.above) || this.usual();
    await this.draw();
    this.sift();
  }

  // The threshold to start with: twice what the middle layer reaches.
  usual() {
    const sorted = [...this.told.ranges.absmax].sort((a, b) => a - b);
    return Number((2 * (sorted[sorted.length >> 1] || 1)).toPrecision(2));
  }

  // A symmetric logarithm: linear around zero, so that negative values have a place.
  get fold() {
    if (!this.log) return { to: (v) => v, back: (v) => v };
    const { absmean } = this.told.ranges;
    const middle = [...absmean].sort((a, b) => a - b)[absmean.length >> 1] || 1;
    const unit = 10 ** Math.floor(Math.log10(middle));
    const to = (v) => (v === null ? null : Math.sign(v) * Math.log10(1 + Math.abs(v) / unit));
    return { to, back: (v) => Math.sign(v) * (10 ** Math.abs(v) - 1) * unit, unit };
  }

  ticks(fold, values) {
    if (!this.log) return {};
    const most = Math.max(...values.map((v) => Math.abs(v ?? 0)));
    const steps = [];
    for (let tick = fold.unit; tick <= most * 1.01; tick *= 10) steps.push(tick);
    const few = Math.ceil(steps.length / 4);
    const shown = steps.filter((_, i) => (steps.length - 1 - i) % few === 0);
    const all = [...shown.map((v) => -v).reverse(), 0, ...shown];
    return { tickmode: "array", tickvals: all.map(fold.to), ticktext: all.map((v) => quantuiCharts.short(v)) };
  }

  // One path a kind and number, with gaps between the layers: the picture costs the same for 29 layers and for 560.
  build(c) {
    const { ranges, labels } = this.told;
    const fold = this.fold;
    const bars = { range: {}, middle: {}, mean: {} };
    const data = [];
    const wide = Math.max(2, Math.min(14, 640 / ranges.name.length));
    const kinds = [...new Set(ranges.kind)].filter((kind) => !this.hidden.has(kind));
    for (const kind of kinds) {
      const at = ranges.name.map((_, i) => i).filter((i) => ranges.kind[i] === kind);
      const bar = (low, high) => ({ x: at.flatMap((i) => [i, i, null]), y: at.flatMap((i) => [fold.to(low[i]), fold.to(high[i]), null]) });
      const color = c.kind[kind] ?? c.kind.other;
      const lines = { type: "scatter", mode: "lines", hoverinfo: "skip" };
      data.push({ ...lines, ...bar(ranges.low, ranges.high), line: { color, width: Math.max(1, wide / 3), simplify: false }, opacity: ranges.p1 ? 0.55 : 1 });
      if (ranges.p1) data.push({ ...lines, ...bar(ranges.p1, ranges.p99), line: { color, width: wide, simplify: false } });
      const half = 0.42;
      const x = at.flatMap((i) => [i - half, i + half, null]);
      const mean = at.flatMap((i) => [fold.to(ranges.absmean[i]), fold.to(ranges.absmean[i]), null]);
      data.push({ ...lines, x, y: mean, line: { color: c.text, width: 1.5, simplify: false } });
    }
    const seen = ranges.name.map((_, i) => i).filter((i) => !this.hidden.has(ranges.kind[i]));
    const short = quantuiCharts.short;
    data.push({
      type: "scatter", mode: "lines", line: { width: 0 }, opacity: 0, x: seen, y: seen.map((i) => fold.to(ranges.high[i])), customdata: seen,
      text: seen.map((i) => [
        `<b>${labels[i]}</b>`, `${short(ranges.low[i])} … ${short(ranges.high[i])}`,
        ...(ranges.p1 ? [`1 % … 99 %: ${short(ranges.p1[i])} … ${short(ranges.p99[i])}`] : []), `⌀ |x| ${short(ranges.absmean[i])}`, `× ${short(ranges.ratio[i], 3)}`,
      ].join("<br>")),
      hovertemplate: "%{text}<extra></extra>",
    });
    const all = [...ranges.low, ...ranges.high];
    return {
      data,
      layout: {
        hovermode: "x", hoverdistance: 40, margin: { l: 56, r: 12, t: 8, b: 36 },
        xaxis: { ...this.blocks(), range: [-1, ranges.name.length], showgrid: false, zeroline: false, fixedrange: false },
        yaxis: { ...this.ticks(fold, all), zeroline: true, zerolinewidth: 1 },
      },
    };
  }

  // Layers stand in the order of the forward pass, named by their block.
  blocks() {
    const { block } = this.told.ranges;
    const starts = new Map();
    block.forEach((number, i) => number !== null && !starts.has(number) && starts.set(number, i));
    const every = Math.ceil(starts.size / 20);
    const kept = [...starts].filter(([number]) => number % every === 0);
    const { dataset } = this.body.querySelector("[data-stats='kinds']");
    return { tickmode: "array", tickvals: kept.map(([, i]) => i), ticktext: kept.map(([number]) => String(number)), title: { text: dataset.axis } };
  }

  draw() {
    const fold = this.fold;
    return quantuiCharts.draw(this.chart, (c) => this.build(c), {
      file: "ranges",
      csv: () => this.csv(),
      click: (event) => this.bench.open(this.told.ranges.name[event.points[0].customdata]),
      hover: (event) => this.point(event ? event.points[0].customdata : null, "chart"),
      handle: {
        value: fold.to(this.above), label: this.body.querySelector("[data-stats='over']").dataset.label,
        text: (value) => quantuiCharts.short(fold.back(value), 3),
        move: (value) => {
          this.above = Math.max(fold.back(value), 0);
          this.sift();
        },
        drop: () => this.bench.change({ above: Number(this.above.toPrecision(3)) }),
      },
    });
  }

  csv() {
    const { ranges } = this.told;
    const columns = ["name", "kind", "block", "low", "p1", "p99", "high", "absmean", "absmax", "ratio", "tokens"];
    return { columns, rows: ranges.name.map((_, i) => columns.map((column) => ranges[column]?.[i] ?? "")) };
  }

  // The key of the colours, which is also the filter.
  key() {
    const kinds = [...new Set(this.told.ranges.kind)];
    const c = quantuiCharts.colors();
    this.body.querySelector("[data-stats='kinds']").replaceChildren(...kinds.map((kind) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.kind = kind;
      button.setAttribute("aria-pressed", !this.hidden.has(kind));
      const swatch = document.createElement("i");
      swatch.style.background = `var(--q-kind-${kind in c.kind ? kind : "other"})`;
      button.append(swatch, kind);
      return button;
    }));
  }

  // The table holds the channels above the line, of the kinds that are shown.
  sift() {
    const rows = [...this.body.querySelectorAll(".offenders tbody tr")];
    let over = 0;
    for (const row of rows) {
      const at = (row.dataset.at || "").split(" ").map(Number);
      const shown = Number(row.dataset.absmax) >= this.above && at.some((i) => !this.hidden.has(this.told.ranges.kind[i]));
      row.hidden = !shown;
      over += shown;
    }
    const said = this.body.querySelector("[data-stats='over']");
    said.textContent = said.dataset.text.replace("{n}", over).replace("{all}", rows.length).replace("{value}", quantuiCharts.short(this.above, 3));
  }

  // What is pointed at in one is marked in the other.
  point(at, from) {
    if (from === "chart") {
      for (const row of this.body.querySelectorAll(".offenders tbody tr")) {
        row.classList.toggle("pointed", at !== null && (row.dataset.at || "").split(" ").map(Number).includes(at));
      }
      const first = this.body.querySelector(".offenders tr.pointed:not([hidden])");
      first?.scrollIntoView({ block: "nearest" });
    }
    quantuiCharts.mark(this.chart, at === null ? [] : Array.isArray(at) ? at : [at]);
  }

  listen() {
    this.body.addEventListener("change", (event) => {
      const { set } = event.target.dataset;
      if (!set) return;
      this.bench.change(set === "log" ? { log: event.target.checked ? undefined : "0" } : { role: event.target.value === "output" ? "output" : undefined, above: undefined });
      this.show();
    });
    this.body.addEventListener("click", (event) => {
      const kind = event.target.closest("[data-kind]");
      const row = event.target.closest(".offenders tbody tr");
      if (kind) {
        if (!this.hidden.delete(kind.dataset.kind)) this.hidden.add(kind.dataset.kind);
        kind.setAttribute("aria-pressed", !this.hidden.has(kind.dataset.kind));
        this.bench.change({ without: [...this.hidden].join(".") || undefined });
        this.draw();
        this.sift();
      } else if (row) this.bench.open(row.dataset.layer, row.dataset.channel);
    });
    for (const [type, leaves] of [["mouseover", false], ["focusin", false], ["mouseout", true], ["focusout", true]]) {
      this.body.addEventListener(type, (event) => {
        const row = event.target.closest?.(".offenders tbody tr");
        if (row) this.point(leaves ? null : (row.dataset.at || "").split(" ").map(Number), "table");
      });
    }
  }
};
