// Keys and values view of the Statistics tab: layers by heads, one head by dimension, and what fewer bits cost and save.
window.quantuiStatisticsViews ??= {};
quantuiStatisticsViews.cache = class {
  constructor(bench, body) {
    this.bench = bench;
    this.body = body;
    this.chart = (name) => body.querySelector(`[data-chart="${name}"]`);
    this.stat = (name) => body.querySelector(`[data-stats="${name}"]`);
    this.control = (name) => body.querySelector(`[data-set="${name}"]`);
    this.words = this.stat("cache-words").dataset;
    this.listen();
  }

  get set() {
    return this.bench.set;
  }

  // The cell that is looked at: the largest key where none is named.
  get cell() {
    const { map } = this.told.cache;
    const role = this.set.side === "value" ? "value" : "key";
    let [layer, head] = (this.set.cell ?? "").split(".").map(Number);
    if (!(map[role][layer]?.[head] !== undefined)) {
      [layer, head] = [0, 0];
      map[role].forEach((row, at) => row.forEach((value, h) => value > map[role][layer][head] && ([layer, head] = [at, h])));
    }
    return { role, layer, head };
  }

  bits(role) {
    const { bits } = this.told.cache;
    const chosen = Number(this.set[role === "key" ? "kbits" : "vbits"] ?? 8);
    return bits.includes(chosen) ? chosen : 8;
  }

  fetch() {
    return this.bench.read({ action: "cache" });
  }

  async show(ahead = false) {
    const told = await this.fetch();
    if (!this.bench.took(told, "cache", ahead)) return;
    if (told !== this.told || this.looks !== this.drawn) this.painting = this.paint(told, ahead);
    await this.painting;
  }

  // What is drawn besides the table.
  get looks() {
    const { side, cell, kbits, vbits, batch, context, pairs } = this.set;
    return JSON.stringify([side, cell, kbits, vbits, batch, context, pairs]);
  }

  // Ahead of a click, each chart waits for a moment in which nobody needs the page, and stops where a view is opened meanwhile.
  async paint(told, ahead) {
    const { turn } = this.bench;
    this.told = told;
    this.drawn = null;
    for (const role of ["key", "value"]) this.control(`${role}bits`).value = told.cache.bits.indexOf(this.bits(role));
    this.bench.hold(this.control("batch"), this.set.batch);
    this.bench.hold(this.control("context"), this.set.context, "8192");
    this.control("pairs").checked = this.set.pairs !== "0";
    for (const part of ahead ? [() => this.map("key"), () => this.map("value"), () => this.profile(), () => this.cost()] : []) {
      await quantuiCharts.idle();
      if (turn !== this.bench.turn) return;
      await part();
    }
    this.drawn = this.looks;
    if (ahead) return;
    await Promise.all([this.map("key"), this.map("value")]);
    quantuiCharts.later(() => {
      this.profile();
      this.cost();
    });
  }

  // --- maps -----------------------------------------------------------------------------------------------------------------
  map(role) {
    const { cache, labels } = this.told;
    const z = cache.map[role];
    const heads = Array.from({ length: cache.heads }, (_, h) => h);
    const build = (c) => ({
      data: [{
        type: "heatmap", z, x: heads, y: labels.map((_, at) => at), colorscale: c.sequential, xgap: cache.heads <= 32 ? 1 : 0, ygap: labels.length <= 32 ? 1 : 0, hoverongaps: false,
        text: labels.map((label) => heads.map(() => label)), colorbar: { thickness: 10, outlinewidth: 0, tickfont: { size: 11 }, len: 1 },
        hovertemplate: `%{text} · ${this.words.head} %{x}<br>%{z:.4~g}<extra></extra>`,
      }],
      layout: {
        margin: { l: 44, r: 8, t: 4, b: 36 }, xaxis: { title: { text: this.words.head }, showgrid: false, zeroline: false, fixedrange: true, dtick: Math.max(1, Math.ceil(cache.heads / 16)) },
        yaxis: { title: { text: this.words.block }, autorange: "reversed", showgrid: false, zeroline: false, fixedrange: true, dtick: Math.max(1, Math.ceil(labels.length / 16)) },
      },
    });
    return quantuiCharts.draw(this.chart(`${role}-map`), build, {
      file: `${role}-heads`,
      csv: () => ({ columns: ["layer", ...heads], rows: z.map((row, at) => [cache.name[at], ...row]) }),
      click: (event) => this.choose(role, event.points[0].y, event.points[0].x),
      hover: (event) => event && this.head(role, event.points[0].y, event.points[0].x), // asked for before it is clicked
      painted: () => this.frame(),
    });
  }

  frame() {
    const { role, layer, head } = this.cell;
    for (const side of ["key", "value"]) quantuiCharts.cell(this.chart(`${side}-map`), side === role ? head : null, layer);
  }

  async choose(side, layer, head) {
    this.bench.change({ side: side === "value" ? "value" : undefined, cell: `${layer}.${head}`, profile: undefined });
    this.frame();
    await this.profile();
    this.drawn = this.looks;
    performance.mark("statistics profile"); // what bench/stats_page.py waits for
  }

  head(role, layer, head) {
    return this.bench.read({ action: "profile", attention: this.told.cache.name[layer], role, head });
  }

  // --- one head -------------------------------------------------------------------------------------------------------------
  async profile() {
    const { role, layer, head } = this.cell;
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const told = await this.head(role, layer, head);
    if (turn !== this.turn || !told || told.problem) return;
    this.shape = told;
    this.chart("profile").querySelector("[data-chart-title]").textContent = told.title;
    await this.draw();
  }

  // Where each dimension stands: pairs side by side, first the fastest turning; what is not turned behind them.
  places() {
    const { low, pairs } = this.shape;
    const partner = new Map();
    for (const [a, b] of pairs) partner.set(a, b).set(b, a);
    const first = new Set(pairs.map(([a]) => a));
    const paired = pairs.length > 0 && this.set.pairs !== "0";
    const at = low.map((_, i) => i);
    if (paired) {
      pairs.forEach(([a, b], i) => {
        at[a] = i - 0.2;
        at[b] = i + 0.2;
      });
      let next = pairs.length;
      low.forEach((_, i) => partner.has(i) || (at[i] = next++));
    }
    return { at, partner, first, paired };
  }

  draw() {
    const { low, high, mean, pairs } = this.shape;
    const { role } = this.cell;
    const { at, partner, first, paired } = this.places();
    this.control("pairs").closest("label").hidden = !pairs.length;
    const short = quantuiCharts.short;
    const [least, most] = [Math.min(...low), Math.max(...high)];
    const build = (c) => {
      const parts = pairs.length
        ? [[this.words.first, (i) => first.has(i), c.first], [this.words.second, (i) => partner.has(i) && !first.has(i), c.second], [this.words.unturned, (i) => !partner.has(i), c.float]]
        : [[this.words.value, () => true, c.kind[role === "key" ? "k" : "v"]]];
      const count = paired ? pairs.length * 2 : low.length;
      const all = low.map((_, i) => i);
      const shown = parts.filter(([, belongs]) => all.some(belongs));
      const width = Math.max(1.5, Math.min(9, 480 / count));
      const shapes = shown.map(([, belongs, color]) => quantuiCharts.upright(all.filter(belongs).map((i) => [at[i], low[i], high[i]]), color, width));
      const tick = (Math.max(...at) + 2) / 400; // 5 px of the usual width
      shapes.push(quantuiCharts.level(all.filter((i) => mean[i] !== null).map((i) => [at[i] - tick, at[i] + tick, mean[i]]), c.text, 1));
      const data = pairs.length ? shown.map(([name, , color]) => quantuiCharts.entry(name, color)) : [];
      const order = low.map((_, i) => i).sort((a, b) => at[a] - at[b]);
      data.push({
        type: "scatter", mode: "lines", line: { width: 0 }, opacity: 0, x: order.map((i) => at[i]), y: order.map((i) => high[i]), showlegend: false,
        text: order.map((i) => `<b>${this.words.dimension} ${i}</b>${partner.has(i) ? ` ↔ ${partner.get(i)}` : ""}<br>${short(low[i])} … ${short(high[i])}${mean[i] === null ? "" : `<br>⌀ ${short(mean[i])}`}`),
        hovertemplate: "%{text}<extra></extra>",
      });
      return {
        data,
        layout: {
          shapes, showlegend: pairs.length > 0, hovermode: "x", hoverdistance: 30, margin: { l: 48, r: 12, t: pairs.length ? 28 : 8, b: 40 },
          xaxis: { title: { text: paired ? this.words.pair : this.words.dimension }, range: [-1, Math.max(...at) + 1], showgrid: false, zeroline: false },
          yaxis: { title: { text: this.words.value }, range: [least - 0.05 * (most - least || 1), most + 0.05 * (most - least || 1)] },
        },
      };
    };
    const { layer, head } = this.cell;
    return quantuiCharts.draw(this.chart("profile"), build, {
      ...this.bench.zoom("profile"), file: `${this.told.cache.name[layer]}-${role}-${head}`,
      csv: () => ({ columns: ["dimension", "turned_with", "min", "max", "mean"], rows: low.map((_, i) => [i, partner.get(i) ?? "", low[i], high[i], mean[i]]) }),
    });
  }

  // --- bits -----------------------------------------------------------------------------------------------------------------
  // Error of a role at its width, a list over the layers for one scale a tensor and one a head; null where it is not quantized.
  errors(role) {
    const { cache } = this.told;
    const at = cache.bits.indexOf(this.bits(role));
    const { tensor, head } = cache.errors[role];
    return tensor[at] ? { tensor: tensor[at], head: head[at] } : null;
  }

  said(value) {
    const short = quantuiCharts.short;
    return this.told.cache.relative ? `${short(value * 100, 2)} %` : short(value, 3);
  }

  cost() {
    const { cache } = this.told;
    const mean = (list) => list.reduce((sum, value) => sum + (value ?? 0), 0) / (list.length || 1);
    for (const role of ["key", "value"]) {
      this.stat(`${role}bits`).textContent = this.bits(role);
      const found = this.errors(role);
      this.stat(`${role}error`).textContent = found ? `${this.said(mean(found.tensor))} → ${this.said(mean(found.head))}` : "–";
    }
    this.memory();
    return this.drawErrors();
  }

  size(bytes) {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let unit = 0;
    while (bytes >= 999.5 && unit < units.length - 1) [bytes, unit] = [bytes / 1000, unit + 1];
    return `${bytes.toFixed(unit && bytes < 99.95 ? 1 : 0)} ${units[unit]}`;
  }

  memory() {
    const { token_bytes: per } = this.told.cache;
    const batch = Number(this.control("batch").value);
    const context = Number(this.control("context").value);
    const chosen = per[this.bits("key")] + per[this.bits("value")];
    const whole = 2 * per[16];
    const body = this.stat("memory");
    this.stat("saved").textContent = `${this.size(whole * batch * context)} → ${this.size(chosen * batch * context)}`;
    const rows = [[body.dataset.whole, whole], ["FP8", 2 * per[8]], ["INT8", 2 * per[8]], ["INT4", 2 * per[4]], [body.dataset.chosen, chosen]];
    body.replaceChildren(...rows.map(([name, bytes]) => {
      const row = document.createElement("tr");
      for (const text of [name, this.size(bytes * batch * context), `${Math.round((bytes / whole) * 100)} %`]) row.insertCell().textContent = text;
      return row;
    }));
    body.lastElementChild.setAttribute("aria-current", "true");
  }

  drawErrors() {
    const { labels } = this.told;
    const scale = this.told.cache.relative ? 100 : 1;
    const x = labels.map((_, at) => at);
    const lines = [];
    for (const role of ["key", "value"]) {
      const found = this.errors(role);
      for (const grain of ["tensor", "head"]) if (found) lines.push([role, grain, found[grain].map((value) => (value === null ? null : value * scale))]);
    }
    const name = (role, grain) => this.words[`${role}${grain[0].toUpperCase()}${grain.slice(1)}`];
    const build = (c) => ({
      data: lines.map(([role, grain, y]) => ({
        type: "scatter", mode: labels.length > 40 ? "lines" : "lines+markers", x, y, name: name(role, grain), text: labels, hovertemplate: `%{text}: %{y:.3~g}<extra>${name(role, grain)}</extra>`,
        line: { color: c.kind[role === "key" ? "k" : "v"], dash: grain === "head" ? "dot" : "solid", width: 2 }, marker: { symbol: grain === "head" ? "circle-open" : "circle", size: 6 },
      })),
      layout: {
        showlegend: true, margin: { l: 56, r: 12, t: 30, b: 40 }, xaxis: { title: { text: this.words.block }, showgrid: false, zeroline: false, dtick: Math.max(1, Math.ceil(labels.length / 20)) },
        yaxis: { title: { text: this.told.cache.relative ? this.words.error : this.words.errorPlain }, rangemode: "tozero" },
      },
    });
    return quantuiCharts.draw(this.chart("errors"), build, {
      ...this.bench.zoom("errors"), file: "kv-errors",
      csv: () => ({ columns: ["layer", ...lines.map(([role, grain]) => `${role}_per_${grain}`)], rows: x.map((at) => [this.told.cache.name[at], ...lines.map((line) => line[2][at])]) }),
      click: (event) => this.choose(this.cell.role, event.points[0].x, this.cell.head),
    });
  }

  listen() {
    this.body.addEventListener("input", (event) => {
      const role = { keybits: "key", valuebits: "value" }[event.target.dataset.set];
      if (!role) return;
      this.set[role === "key" ? "kbits" : "vbits"] = String(this.told.cache.bits[Number(event.target.value)]);
      this.cost();
    });
    this.body.addEventListener("change", (event) => {
      const { set } = event.target.dataset;
      if (set === "keybits" || set === "valuebits") this.bench.remember();
      if (set === "batch" || set === "context") {
        this.bench.change({ [set]: event.target.value });
        this.memory();
      }
      if (set === "pairs") {
        this.bench.change({ pairs: event.target.checked ? undefined : "0", profile: undefined }); // its axis becomes another
        this.draw();
      }
    });
  }
};
