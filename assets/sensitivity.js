// The Layers tab: bars of what every layer costs, the choice made by clicking and boxing them, the front of size and damage, and
// the card that says why. Every edit is one of the recipe's draft, so that the Recipe tab shows the same.
window.quantuiSensitivity = (() => {
  const GOING = 500; // ms between two looks while a job goes on
  const SLIDE = 90; // ms the slider rests before its point is taken

  const REST = 800; // ms after the bars before the card of the worst layer is asked for

  class Bench extends quantuiLink.Link {
    constructor(root, server, props) {
      super(root, server, props);
      this.data = null;
      this.picked_layers = new Set();
      this.last = null;
      quantuiCharts.load().catch(console.warn); // while the first answer is on its way
      this.view = "kind";
      this.log = true;
      this.figures = Object.fromEntries([...root.querySelectorAll("[data-chart]")].map((one) => [one.dataset.chart, one]));
      this.listen();
      this.look();
    }

    find(name) {
      return this.root.querySelector(`[data-sens="${name}"]`);
    }

    word(name) {
      return this.root.getAttribute(`data-t-${name.replaceAll("_", "-")}`) ?? "";
    }

    question(asked) {
      const allowed = this.find("allowed").value;
      const method = asked.method ?? this.find("method").value;
      const target = this.find("target").value;
      const limit = this.find("limit").valueAsNumber / (target === "kl" ? 1 : 100); // percent of right answers
      const samples = this.find("samples").valueAsNumber;
      return { stamp: this.stamp ?? "", scores: this.stamp ?? "", method, allowed, allowed_shown: this.allowed, target, limit, samples };
    }

    // --- showing ------------------------------------------------------------------------------------------------------------
    take(told, asked) {
      const began = performance.now();
      if (told.run) return this.began(told.run);
      if (told.recipe !== undefined) return this.used(told.recipe, asked);
      for (const [name, html] of Object.entries(told.parts ?? {})) this.slot(name)?.replaceChildren(this.fresh(html));
      this.have = { ...this.have, ...told.digests };
      if (told.layer !== undefined) return this.grid(told);
      if (told.revision === undefined) {
        if (!this.before) return undefined;
        this.choice = this.before; // it was refused
        this.before = null;
        return this.bars();
      }
      this.before = null;
      this.revision = told.revision;
      for (const [name, can] of Object.entries(told.can)) this.button(name).disabled = !can;
      this.going(told.going);
      if (told.scores) this.scores(told);
      this.stamp = told.stamp;
      this.growing = Boolean(told.going) && !["measure", "auto"].includes(told.going.method) && told.stamp?.startsWith(told.going.id);
      this.allowed = this.find("allowed").value;
      this.root.dataset.ready = told.stamp ?? "";
      this.find("body").hidden = !told.choice;
      if (!told.choice) return undefined;
      Object.assign(this, { choice: told.choice, now: told.now, measured: told.measured });
      return this.bars().then(() => {
        this.root.dataset.took = Math.round(performance.now() - began);
        this.root.dataset.revision = told.revision;
        performance.mark("layers shown");
        quantuiCharts.later(() => this.front());
        this.rest();
      });
    }

    scores(told) {
      if (told.stamp !== this.stamp) this.explained = false;
      this.data = told.scores;
      this.points = told.front;
      const brush = this.find("brush");
      const chosen = brush.value;
      const options = [["float", this.word("float")], ...this.data.schemes.map((one) => [one.name, one.name])];
      brush.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
      if (options.some(([value]) => value === chosen)) brush.value = chosen;
      this.find("budget").max = this.points.bytes.length - 1;
      for (const name of [...this.picked_layers]) if (!this.data.name.includes(name)) this.picked_layers.delete(name);
      this.figures.bars.querySelector("[data-chart-title]").textContent = this.data.finding;
    }

    going(job) {
      const line = this.find("going");
      line.hidden = !job;
      clearTimeout(this.timer);
      if (!job) return;
      const bar = this.find("done");
      if (job.done === null || job.done === undefined) bar.removeAttribute("value");
      else bar.value = job.done;
      this.timer = setTimeout(() => this.look(), GOING);
    }

    began(run) {
      quantui.open?.(run);
      this.look();
    }

    used(recipe, asked) {
      quantui.send("recipe", recipe);
      quantui.show(asked.then);
    }

    // --- bars ---------------------------------------------------------------------------------------------------------------
    bars() {
      const { data } = this;
      this.key();
      const csv = () => ({
        columns: ["layer", "group", "scheme", "kl", "stderr", "chosen"],
        rows: data.schemes.flatMap((one, s) => data.name.map((name, i) => [name, data.group[i], one.name, data.kl[s][i], data.stderr[s][i], this.choice[i] === s])),
      });
      const map = this.view === "map";
      const options = { file: "layers", csv, click: (event) => this.clicked(event), box: map ? null : (from, to) => this.boxed(from, to) };
      const seen = JSON.stringify([this.stamp, this.choice, [...this.picked_layers], this.view, this.log]);
      if (seen === this.seen) return this.drawn;
      this.seen = seen;
      this.drawn = quantuiCharts.draw(this.figures.bars, (c) => (map ? this.map(c) : this.columns(c)), options);
      return this.drawn;
    }

    color(c, scheme) {
      return scheme.bits <= 4 ? c.bits4 : c.bits8;
    }

    // One shape a kind, scheme or mark: the picture costs the same for 28 layers and for 560.
    columns(c) {
      const { data } = this;
      const x = data.name.map((_, i) => i);
      const span = this.span();
      const base = this.log ? 10 ** span[0] : 0;
      const still = this.still(base);
      const grouped = this.view === "scheme";
      const shown = x.map((i) => Math.max(this.choice[i], 0));
      const layout = {
        dragmode: false, hovermode: "x", hoverdistance: 20, showlegend: grouped,
        xaxis: { ...still.blocks, title: { text: this.word("layer_axis") }, range: [-0.9, data.name.length - 0.4] },
        yaxis: { title: { text: data.unit }, type: this.log ? "log" : "linear", range: span, exponentformat: "power", fixedrange: true, dtick: this.log ? 1 : undefined },
        shapes: grouped ? this.beside(c, x, base) : this.alone(c, x, shown, base), annotations: [],
      };
      if (data.floor) {
        const y = this.log ? Math.log10(data.floor) : data.floor;
        layout.shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: data.floor, y1: data.floor, line: { color: c.muted, width: 1, dash: "dot" } });
        layout.annotations.push({ xref: "paper", x: 1, xanchor: "right", y, yanchor: "bottom", text: this.word("floor"), showarrow: false, bgcolor: c.panel, opacity: 0.85, font: { size: 11, color: c.muted } });
      }
      return { data: [this.aim(still), ...(grouped ? data.schemes.map((one, s) => quantuiCharts.entry(one.name, this.shade(c, s))) : [])], layout };
    }

    // Plotly draws traces and axes anew whose arrays are others than before, which takes most of its time: these stay the same while
    // the choice changes.
    still(base) {
      const { data } = this;
      if (this.kept?.of !== data || this.kept.base !== base) {
        const y = data.name.map((_, i) => Math.max(...data.kl.map((of) => of[i] ?? 0), base));
        this.kept = { of: data, base, x: data.name.map((_, i) => i), y, customdata: data.name.map((_, i) => [i, ""]), blocks: this.blocks() };
      }
      return this.kept;
    }

    // What the pointer finds. Plotly reads the words as it shows them.
    aim({ x, y, customdata }) {
      for (const one of customdata) one[1] = this.hover(one[0]);
      return { type: "scatter", mode: "lines", x, y, customdata, hovertemplate: "%{customdata[1]}<extra></extra>", line: { width: 0 }, opacity: 0, showlegend: false };
    }

    // A bar a layer in the scheme it has: coloured by kind, pale with an edge in another than the first, an outline in float.
    alone(c, x, shown, base) {
      const { data, choice } = this;
      const value = (i) => data.kl[shown[i]][i];
      const bars = (belongs, looks) => this.rows(x.filter(belongs), value, 0, this.half, base, looks);
      const colored = [...new Set(data.kind)].flatMap((kind) => {
        const color = c.kind[kind] ?? c.kind.other;
        const line = { color, width: 1.5 };
        return [
          bars((i) => data.kind[i] === kind && (choice[i] === 0 || choice[i] === -2), { fillcolor: color }),
          bars((i) => data.kind[i] === kind && choice[i] > 0, { fillcolor: quantuiCharts.fade(color, 0.3), line }),
        ];
      });
      const edge = (color) => ({ line: { color, width: 2 } });
      const marks = [bars((i) => choice[i] !== -1 && this.picked_layers.has(data.name[i]), edge(c.text)), bars((i) => choice[i] === -1, edge(c.fallback))];
      return [...colored, ...marks, this.errors(c, x, value, (i) => data.stderr[shown[i]][i], 0, base)].filter((shape) => shape.path);
    }

    // A bar a layer and scheme, side by side.
    beside(c, x, base) {
      const { data } = this;
      const half = this.half / data.schemes.length;
      return data.schemes.flatMap((_, s) => {
        const off = (2 * s + 1 - data.schemes.length) * half;
        const value = (i) => data.kl[s][i];
        return [this.rows(x, value, off, half, base, { fillcolor: this.shade(c, s) }), this.errors(c, x, value, (i) => data.stderr[s][i], off, base)];
      }).filter((shape) => shape.path);
    }

    get half() {
      return this.data.name.length > 120 ? 0.5 : 0.41;
    }

    rows(at, value, off, half, base, looks) {
      return quantuiCharts.boxes(at.filter((i) => value(i) > base).map((i) => [i + off - half, i + off + half, base, value(i)]), looks);
    }

    errors(c, x, value, error, off, base) {
      const seen = x.filter((i) => value(i) > base && error(i));
      return quantuiCharts.upright(seen.map((i) => [i + off, Math.max(value(i) - error(i), base), value(i) + error(i)]), c.muted, 1);
    }

    shade(c, s) {
      const same = this.data.schemes.filter((one, i) => i < s && one.bits === this.data.schemes[s].bits).length;
      const base = this.color(c, this.data.schemes[s]);
      return same ? (c.dark ? "#9cc9ea" : "#7fb8dc") : base;
    }

    // From what counts up to the largest: the smallest are below the model's own noise.
    span() {
      const all = this.data.kl.flat().filter((v) => v > 0);
      const most = Math.max(...all, 1e-9);
      if (!this.log) return [0, most * 1.1];
      return [Math.log10(Math.max(Math.min(...all, most), most / 1e6)) - 0.1, Math.log10(most) + 0.3];
    }

    blocks() {
      const { block } = this.data;
      const first = block.map((b, i) => (b !== null && b !== block[i - 1] ? i : -1)).filter((i) => i >= 0);
      const every = Math.ceil(first.length / 24);
      const kept = first.filter((_, n) => n % every === 0);
      return { tickvals: kept, ticktext: kept.map((i) => String(block[i])), showgrid: true, zeroline: false };
    }

    hover(i) {
      const { data } = this;
      const lines = data.schemes.map((one, s) => `${this.choice[i] === s ? "● " : "○ "}${one.name}: ${quantuiCharts.short(data.kl[s][i], 3)} ± ${quantuiCharts.short(data.stderr[s][i], 2)}`);
      return [`<b>${data.name[i]}</b>`, ...lines, `${this.choice[i] === -1 ? "● " : "○ "}${this.word("float")}: 0`].join("<br>");
    }

    map(c) {
      const { data } = this;
      const kinds = data.order.filter((kind) => data.kind.includes(kind));
      const blocks = [...new Set(data.block.map((b) => b ?? -1))].sort((a, b) => a - b);
      const z = kinds.map(() => blocks.map(() => null));
      const at = kinds.map(() => blocks.map(() => null));
      data.name.forEach((_, i) => {
        const row = kinds.indexOf(data.kind[i]), column = blocks.indexOf(data.block[i] ?? -1);
        const value = data.kl[Math.max(this.choice[i], 0)][i];
        if (value !== null && (z[row][column] === null || value > z[row][column])) [z[row][column], at[row][column]] = [value, i];
      });
      const scaled = z.map((row) => row.map((v) => (v === null ? null : this.log ? Math.log10(Math.max(v, 1e-12)) : v)));
      const heat = {
        type: "heatmap", z: scaled, x: blocks, y: kinds, customdata: at, text: at.map((row) => row.map((i) => (i === null ? "" : this.hover(i)))), hoverinfo: "text",
        colorscale: c.sequential, xgap: 1, ygap: 1, colorbar: { thickness: 12, outlinewidth: 0, ...this.powers(scaled), title: { text: data.unit, side: "right", font: { size: 11, color: c.muted } }, tickfont: { color: c.muted } },
      };
      const layout = { dragmode: false, xaxis: { title: { text: this.word("block") }, dtick: Math.ceil(blocks.length / 24) }, yaxis: { autorange: "reversed", type: "category" } };
      return { data: [heat], layout };
    }

    // Whole powers of ten beside the map.
    powers(scaled) {
      const all = scaled.flat().filter((v) => v !== null);
      if (!this.log || !all.length) return {};
      const first = Math.ceil(Math.min(...all)), last = Math.floor(Math.max(...all));
      const tickvals = Array.from({ length: Math.max(last - first + 1, 0) }, (_, i) => first + i);
      return { tickvals, ticktext: tickvals.map((v) => `10<sup>${v}</sup>`) };
    }

    key() {
      const kinds = this.data.order.filter((kind) => this.data.kind.includes(kind));
      const swatch = (kind) => {
        const item = document.createElement("span");
        const mark = document.createElement("i");
        mark.style.background = `var(--q-kind-${kind}, var(--q-kind-other))`;
        item.append(mark, kind);
        return item;
      };
      const fell = document.createElement("span");
      const mark = document.createElement("i");
      mark.className = "fell";
      fell.append(mark, this.word("float"));
      this.find("key").replaceChildren(...(this.view === "kind" ? [...kinds.map(swatch), fell] : []));
    }

    // --- choosing -----------------------------------------------------------------------------------------------------------
    boxed(from, to) {
      const names = this.data.name.filter((_, i) => i + this.half > from && i - this.half < to);
      if (names.length) this.apply(names);
    }

    // The bar below the pointer. Plotly looks for one every 50 ms at most: a click sooner after a redraw gets that of before.
    under({ clientX }) {
      const box = this.figures.bars.querySelector("[data-plot]");
      const { xaxis } = box._fullLayout;
      const at = Math.round(xaxis.p2d(clientX - box.getBoundingClientRect().left - xaxis._offset));
      return Math.min(Math.max(at, 0), this.data.name.length - 1);
    }

    clicked(event) {
      const at = this.view === "map" || !event.event ? [event.points[0].customdata].flat()[0] : this.under(event.event);
      if (at === null || at === undefined || this.growing) return;
      const name = this.data.name[at];
      const from = event.event?.shiftKey && this.last !== null ? this.last : at;
      const names = this.data.name.slice(Math.min(from, at), Math.max(from, at) + 1);
      this.last = at;
      this.apply(names);
      this.ask({ action: "why", layer: name });
    }

    apply(names) {
      const { group } = this.data;
      const groups = new Set(names.map((name) => group[this.data.name.indexOf(name)]));
      this.picked_layers = new Set(this.data.name.filter((_, i) => groups.has(group[i])));
      if (this.growing) return;
      const scheme = this.find("brush").value;
      this.ask({ action: "edit", layers: names, scheme });
      setTimeout(() => this.foresee(groups, scheme, this.revision));
    }

    // The bars as the answer will have them, drawn while it is on its way.
    foresee(groups, scheme, revision) {
      const { data, choice } = this;
      const taken = (i) => groups.has(data.group[i]);
      const to = scheme === "float" ? -1 : data.schemes.findIndex((one) => one.name === scheme);
      const all = choice.every((now, i) => !taken(i) || now === -1);
      if (revision !== this.revision || (to === -1 && all)) return; // taken up again: the server knows by which pattern
      this.before = choice;
      this.choice = choice.map((now, i) => (taken(i) ? to : now));
      this.seen = null;
      this.bars();
    }

    // --- the front ----------------------------------------------------------------------------------------------------------
    front() {
      const { points } = this;
      const build = (c) => {
        const size = (bytes) => bytes.map((b) => b / 1e6);
        const ends = (v) => (v > 0 ? v : null);
        const line = {
          type: "scatter", mode: "lines+markers", x: size(points.bytes), y: points.kl.map(ends), name: this.word("front"), customdata: points.bytes.map((_, i) => i),
          line: { color: c.bits8, width: 1.5 }, marker: { size: 7, color: c.bits8 },
          hovertext: points.bytes.map((_, i) => this.pointed(i)), hoverinfo: "text",
        };
        const now = {
          type: "scatter", mode: "markers", x: [this.now.bytes / 1e6], y: [ends(this.now.kl)], name: this.word("now"), hoverinfo: "name+x+y",
          marker: { symbol: "star", size: 14, color: c.accent, line: { color: c.panel, width: 1 } },
        };
        const real = {
          type: "scatter", mode: "markers", x: this.measured.map((one) => one.bytes / 1e6), y: this.measured.map((one) => ends(one.kl)), name: this.word("measured"),
          error_y: { type: "data", array: this.measured.map((one) => one.stderr), color: c.over, thickness: 1, width: 3 }, hoverinfo: "text",
          hovertext: this.measured.map((one) => `${this.word("measured")} ${quantuiCharts.short(one.kl, 3)}<br>${this.word("foretold")} ${quantuiCharts.short(one.foretold, 3)}`),
          marker: { symbol: "diamond-open", size: 11, color: c.over, line: { width: 2 } },
        };
        const seen = [...points.kl, this.now.kl].filter((v) => v > 0);
        const decades = Math.log10(Math.max(...seen) / Math.min(...seen)); // of a few, numbers stand between the powers of ten
        const layout = {
          showlegend: true, margin: { l: 60, r: 16, t: 30, b: 44 }, dragmode: false,
          xaxis: { title: { text: this.word("size_axis") } }, yaxis: { title: { text: this.word("kl_axis") }, type: "log", exponentformat: "power", dtick: decades > 2 ? 1 : undefined },
        };
        return { data: [line, now, ...(this.measured.length ? [real] : [])], layout };
      };
      const csv = () => ({ columns: ["bytes", "bits_per_weight", "kl"], rows: points.bytes.map((b, i) => [b, points.bits[i], points.kl[i]]) });
      const click = (event) => {
        const point = event.points.find((one) => one.curveNumber === 0);
        if (point) this.point(point.customdata);
      };
      this.slide();
      return quantuiCharts.draw(this.figures.front, build, { file: "front", csv, click });
    }

    // The slider stands where the choice is.
    slide() {
      const slider = this.find("budget");
      if (document.activeElement !== slider) {
        const away = this.points.bytes.map((b) => Math.abs(b - this.now.bytes));
        slider.value = away.indexOf(Math.min(...away));
      }
      this.tell(Number(slider.value));
    }

    tell(at) {
      this.find("budget-said").textContent = this.pointed(at);
    }

    // A point of the front in words.
    pointed(at) {
      const { bytes, bits, kl } = this.points;
      const numbers = { size: (bytes[at] / 1e6).toPrecision(4), bits: bits[at].toFixed(2), kl: quantuiCharts.short(kl[at], 3) };
      return this.word("point").replace(/\{(\w+)\}/g, (_, name) => numbers[name]);
    }

    point(at) {
      this.find("budget").value = at;
      this.tell(at);
      this.queue = this.queue.filter((asked) => asked.action !== "take");
      this.ask({ action: "take", point: at });
    }

    // --- why ----------------------------------------------------------------------------------------------------------------
    // Until a layer is asked for, the card is that of the one that costs most.
    rest() {
      clearTimeout(this.resting);
      if (!this.explained) this.resting = setTimeout(() => (this.busy ? this.rest() : this.worst()), REST);
    }

    worst() {
      if (this.explained || this.growing || !this.root.offsetParent) return;
      const [own] = this.data.kl;
      const at = own.reduce((most, value, i) => ((value ?? 0) > (own[most] ?? 0) ? i : most), 0);
      this.ask({ action: "why", layer: this.data.name[at] });
    }

    grid(told) {
      this.explained = true;
      this.find("grid").hidden = !told.grid;
      if (!told.grid) return undefined;
      this.figures.grid.querySelector("[data-chart-title]").textContent = told.grid.title;
      return quantuiCharts.histogram(this.figures.grid, told.grid.spread, { value: this.word("value"), count: this.word("count"), file: told.layer });
    }

    // --- listening ----------------------------------------------------------------------------------------------------------
    listen() {
      this.root.addEventListener("click", (event) => {
        const layer = event.target.closest("[data-why]");
        if (layer && !this.growing) return this.ask({ action: "why", layer: layer.dataset.why });
        const button = event.target.closest("[data-do]");
        if (!button || button.disabled) return undefined;
        const action = button.dataset.do;
        if (action === "start") return this.ask({ action: "start", method: this.find("method").value });
        if (action === "statistics") return quantui.show("statistics");
        if (action === "auto") return this.ask({ action: "start", method: "auto" });
        if (action === "measure") return this.ask({ action: "start", method: "measure" });
        if (action === "recipe") return quantui.show("recipe");
        if (action === "quantize") return this.ask({ action: "use", then: "quantize" });
        return this.ask({ action });
      });
      this.root.addEventListener("change", (event) => {
        const { set, sens } = event.target.dataset;
        if (set === "view") this.view = event.target.value;
        if (set === "log") this.log = event.target.checked;
        if (set && this.data) this.bars();
        if (sens === "target") this.find("limit").value = event.target.selectedOptions[0].dataset.limit;
        if (["method", "allowed", "samples", "target"].includes(sens)) this.look();
      });
      let pause = null;
      this.find("budget").addEventListener("input", (event) => {
        this.tell(Number(event.target.value));
        clearTimeout(pause);
        pause = setTimeout(() => this.point(Number(event.target.value)), SLIDE);
      });
      document.addEventListener("keydown", (event) => {
        if (!this.root.offsetParent || !(event.target === document.body || this.root.contains(event.target))) return;
        const action = (event.ctrlKey || event.metaKey) && { z: event.shiftKey ? "redo" : "undo", y: "redo" }[event.key.toLowerCase()];
        if (!action) return;
        event.preventDefault();
        this.ask({ action });
      });
      this.watchOthers("layers");
    }
  }

  return { start: quantuiLink.starter('[data-sens="root"]', Bench) };
})();
