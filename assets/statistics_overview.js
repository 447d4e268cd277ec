// Overview of the Statistics tab: the range of every layer, and the channels that stand out beside it.
window.quantuiStatisticsViews ??= {};
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
    const asked = JSON.stringify([this.log, [...this.hidden], this.bench.set.above]);
    const same = told === this.told && asked === this.drawn;
    if (!this.bench.took(told, "overview") || same) return;
    this.told = told;
    this.drawn = asked;
    this.key();
    const above = parseFloat(this.bench.set.above);
    this.above = above >= 0 && above < Infinity ? above : this.usual();
    this.sift();
    this.title();
    await this.draw();
  }

  // The finding is what the table says first.
  title() {
    const row = this.body.querySelector(".offenders tbody tr:not([hidden])");
    const [layer, channel, , ratio] = [...(row?.cells ?? [])].map((cell) => cell.textContent);
    const { question, finding } = this.told;
    const text = row ? finding.replace("{layer}", () => layer).replace("{channel}", channel).replace("{ratio}", parseFloat(ratio)) : question;
    this.chart.querySelector("[data-chart-title]").textContent = text;
  }

  // Where the first row of the table leads: the channel that stands out most.
  get loudest() {
    return this.body.querySelector(".offenders tbody tr")?.dataset;
  }

  // The threshold to start with: twice what the middle layer reaches, or where it leaves ten rows of the table.
  usual() {
    const middle = [...this.told.ranges.absmax].sort((a, b) => a - b)[this.told.ranges.absmax.length >> 1] || 1;
    const rows = [...this.body.querySelectorAll(".offenders tbody tr")].map((row) => Number(row.dataset.absmax)).sort((a, b) => b - a);
    const wanted = Math.min(2 * middle, rows[9] ?? rows.at(-1) ?? Infinity);
    const digit = 10 ** (Math.floor(Math.log10(wanted)) - 1);
    return Number((Math.floor(wanted / digit) * digit).toPrecision(2));
  }

  // The kinds that are shown.
  get kinds() {
    return [...new Set(this.told.ranges.kind)].filter((kind) => !this.hidden.has(kind));
  }

  get fold() {
    return quantuiCharts.fold(this.log ? quantuiCharts.unit(this.told.ranges.absmean) : 0);
  }

  // One shape a kind and number: the picture costs the same for 29 layers and for 560.
  build(c) {
    const { ranges, labels, seen: tokens } = this.told;
    const fold = this.fold;
    const shapes = [];
    const wide = Math.max(2, Math.min(14, 640 / ranges.name.length));
    for (const kind of this.kinds) {
      const at = ranges.name.map((_, i) => i).filter((i) => ranges.kind[i] === kind);
      const bars = (low, high, width) => quantuiCharts.upright(at.map((i) => [i, fold.to(low[i]), fold.to(high[i])]), c.kind[kind] ?? c.kind.other, width);
      shapes.push({ ...bars(ranges.low, ranges.high, Math.max(1, wide / 3)), opacity: ranges.p1 ? 0.55 : 1 });
      if (ranges.p1) shapes.push(bars(ranges.p1, ranges.p99, wide));
    }
    const seen = ranges.name.map((_, i) => i).filter((i) => !this.hidden.has(ranges.kind[i]));
    shapes.push(quantuiCharts.level(seen.map((i) => [i - 0.42, i + 0.42, fold.to(ranges.absmean[i])]), c.text, 1.5));
    const short = quantuiCharts.short;
    const data = [{
      type: "scatter", mode: "lines", line: { width: 0 }, opacity: 0, showlegend: false, x: seen, y: seen.map((i) => fold.to(ranges.high[i])), customdata: seen,
      text: seen.map((i) => [
        `<b>${labels[i]}</b>`, `${short(ranges.low[i])} … ${short(ranges.high[i])}`,
        ...(ranges.p1 ? [`1 % … 99 %: ${short(ranges.p1[i])} … ${short(ranges.p99[i])}`] : []), `⌀ |x| ${short(ranges.absmean[i])}`, `× ${short(ranges.ratio[i], 3)}`,
        ...(tokens[i] ? [tokens[i]] : []),
      ].join("<br>")),
      hovertemplate: "%{text}<extra></extra>",
    }];
    const all = [...ranges.low, ...ranges.high];
    const [least, most] = [Math.min(...ranges.low.map(fold.to)), Math.max(...ranges.high.map(fold.to))];
    const rest = (most - least || 1) * 0.05;
    return {
      data,
      layout: {
        shapes, hovermode: "x", hoverdistance: 40, margin: { l: 68, r: 12, t: 8, b: 36 },
        xaxis: { ...this.blocks(), range: [-1, ranges.name.length], showgrid: false, zeroline: false, fixedrange: false },
        yaxis: { ...fold.ticks(all), title: { text: this.body.querySelector("[data-stats='kinds']").dataset.value }, range: [least - rest, most + rest], zeroline: true, zerolinewidth: 1 },
      },
    };
  }

  // Layers stand in the order of the forward pass, named by their block.
  blocks() {
    const { block } = this.told.ranges;
    const starts = block.map((number, i) => [number, i]).filter(([number, i]) => number !== null && number !== block[i - 1]);
    const every = Math.ceil(starts.length / 20);
    const kept = starts.filter((_, i) => i % every === 0);
    const { dataset } = this.body.querySelector("[data-stats='kinds']");
    return { tickmode: "array", tickvals: kept.map(([, i]) => i), ticktext: kept.map(([number]) => String(number)), title: { text: dataset.axis } };
  }

  draw() {
    const fold = this.fold;
    return quantuiCharts.draw(this.chart, (c) => this.build(c), {
      file: "ranges",
      key: (c) => this.kinds.map((kind) => quantuiCharts.entry(kind, c.kind[kind] ?? c.kind.other)),
      csv: () => this.csv(),
      click: (event) => this.bench.open(this.told.ranges.name[event.points[0].customdata]),
      hover: (event) => this.point(event ? event.points[0].customdata : null, "chart"),
      ...this.bench.zoom("ranges"),
      handle: {
        value: fold.to(this.above), label: this.body.querySelector("[data-stats='over']").dataset.label,
        text: (value) => quantuiCharts.short(fold.back(value), 3),
        move: (value) => {
          this.above = Math.max(fold.back(value), 0);
          this.sift();
        },
        drop: () => {
          this.bench.change({ above: Number(this.above.toPrecision(3)) });
          this.drawn = null;
          this.title();
        },
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
      const ranges = this.bench.set.ranges?.split("_", 2).join("_"); // the y axis becomes another
      this.bench.change({ ranges, ...(set === "log" ? { log: event.target.checked ? undefined : "0" } : { role: event.target.value === "output" ? "output" : undefined, above: undefined }) });
      this.show();
    });
    this.body.addEventListener("click", (event) => {
      const kind = event.target.closest("[data-kind]");
      const row = event.target.closest(".offenders tbody tr");
      if (kind) {
        if (!this.hidden.delete(kind.dataset.kind)) this.hidden.add(kind.dataset.kind);
        kind.setAttribute("aria-pressed", !this.hidden.has(kind.dataset.kind));
        this.bench.change({ without: [...this.hidden].join(".") || undefined });
        this.sift();
        this.title();
        this.draw();
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
