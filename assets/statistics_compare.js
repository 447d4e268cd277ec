// Compare view of the Statistics tab: how far every layer reaches in another table against this one.
window.quantuiStatisticsViews ??= {};
quantuiStatisticsViews.compare = class {
  constructor(bench, body) {
    this.bench = bench;
    this.body = body;
    this.chart = body.querySelector('[data-chart="changes"]');
    this.words = body.querySelector('[data-stats="compared"]').dataset;
    this.listen();
  }

  get role() {
    return this.body.querySelector('[data-set="compared"]').value;
  }

  async show() {
    const other = this.body.querySelector('[data-set="other"]');
    const options = [...this.bench.find("table").options].filter((option) => option.value !== this.bench.set.table);
    other.replaceChildren(...options.map(({ text, value }) => new Option(text, value)));
    for (const name of ["compared", "alone"]) this.body.querySelector(`[data-stats="${name}"]`).hidden = (name === "alone") !== !options.length;
    this.body.querySelector(".layer-bar").hidden = !options.length;
    if (!options.length) return;
    // Another collection of the same model says more than one of another.
    const { models, set } = this.bench;
    const alike = options.find(({ value }) => models.get(value) === models.get(set.table)) ?? options[0];
    this.bench.hold(other, set.other, alike.value);
    this.bench.hold(this.body.querySelector('[data-set="compared"]'), set.compared);
    this.bench.change({ other: other.value });
    const told = await this.bench.read({ action: "compare", other: other.value, role: this.role });
    if (!this.bench.took(told, "compare")) return;
    this.told = told;
    this.chart.classList.toggle("chart-nothing", !told.changes.name.length);
    this.chart.querySelector("[data-chart-title]").textContent = told.title;
    await this.draw();
  }

  draw() {
    const { name, kind, block, here, there, change } = this.told.changes;
    const short = quantuiCharts.short;
    const build = (c) => {
      const wide = Math.max(1.5, Math.min(14, 640 / (name.length || 1)));
      const kinds = [...new Set(kind)];
      const color = (one) => c.kind[one] ?? (this.role === "value" ? c.kind.v : this.role === "key" ? c.kind.k : c.kind.other);
      const shapes = kinds.map((one) => {
        const at = name.map((_, i) => i).filter((i) => kind[i] === one);
        return quantuiCharts.upright(at.map((i) => [i, 0, change[i] ?? 0]), color(one), wide);
      });
      const data = [{
        type: "scatter", mode: "lines", line: { width: 0 }, opacity: 0, x: name.map((_, i) => i), y: change, customdata: name.map((_, i) => i), showlegend: false,
        text: name.map((one, i) => `<b>${one}</b><br>${short(here[i])} → ${short(there[i])}`), hovertemplate: "%{text}<extra></extra>",
      }, ...(kinds.length > 1 ? kinds.map((one) => quantuiCharts.entry(one, color(one))) : [])];
      const starts = block.map((number, i) => [number, i]).filter(([number, i]) => number !== null && number !== block[i - 1]);
      const every = Math.ceil(starts.length / 20) || 1;
      const kept = starts.filter((_, i) => i % every === 0);
      const most = Math.max(0.1, ...change.map((value) => Math.abs(value ?? 0))) * 1.1;
      return {
        data,
        layout: {
          shapes, showlegend: kinds.length > 1, hovermode: "x", hoverdistance: 40, margin: { l: 56, r: 12, t: kinds.length > 1 ? 30 : 8, b: 40 },
          xaxis: { tickmode: "array", tickvals: kept.map(([, i]) => i), ticktext: kept.map(([number]) => String(number)), title: { text: this.words.axis }, range: [-1, name.length], showgrid: false, zeroline: false },
          yaxis: { title: { text: this.words.change }, range: [-most, most], zeroline: true },
        },
      };
    };
    return quantuiCharts.draw(this.chart, build, {
      file: "changes",
      csv: () => ({ columns: ["name", "here", "there", "log2_change"], rows: name.map((one, i) => [one, here[i], there[i], change[i]]) }),
      click: (event) => this.open(name[event.points[0].customdata]),
      hover: (event) => this.point(event ? event.points[0].customdata : null),
      ...this.bench.zoom("changes"),
    });
  }

  // Keys and values have a view of their own.
  open(name) {
    if (this.role === "input" || this.role === "output") {
      this.bench.change({ role: this.role === "output" ? "output" : undefined });
      this.bench.open(name);
    } else {
      this.bench.change({ view: "cache", side: this.role === "value" ? "value" : undefined });
      this.bench.show();
    }
  }

  point(at) {
    for (const row of this.body.querySelectorAll(".moved tbody tr")) row.classList.toggle("pointed", at !== null && Number(row.dataset.at) === at);
    this.body.querySelector(".moved tr.pointed")?.scrollIntoView({ block: "nearest" });
  }

  listen() {
    this.body.addEventListener("change", (event) => {
      const { set } = event.target.dataset;
      if (!set) return;
      this.bench.change({ [set]: event.target.value, changes: undefined });
      this.show();
    });
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest(".moved tbody tr");
      if (row) this.open(row.dataset.layer);
    });
    this.body.addEventListener("mouseover", (event) => {
      const row = event.target.closest(".moved tbody tr");
      if (row) quantuiCharts.mark(this.chart, [Number(row.dataset.at)]);
    });
    this.body.addEventListener("mouseout", (event) => event.target.closest(".moved tbody tr") && quantuiCharts.mark(this.chart, []));
  }
};
