// Charts of every tab: loads the page's own Plotly once, draws in the page's colours, again when the theme or the width changes,
// and serves the toolbar that all charts share. A tab calls quantuiCharts.draw(figure, build, options) and nothing of Plotly itself.
window.quantuiCharts = (() => {
  const CONFIG = { displayModeBar: false, displaylogo: false, responsive: false, doubleClick: false, showTips: false };
  const NAMES = ["q", "k", "v", "o", "gate", "up", "down", "qkv", "gate_up", "router", "head", "other"];
  const FROM = "#0072b2", TO = "#d55e00";
  const states = new Map(); // figure element -> what it shows
  let plotly = null;

  function load() {
    plotly ??= new Promise((done, fail) => {
      const script = document.createElement("script");
      script.src = document.documentElement.dataset.plotly;
      script.onload = () => done(window.Plotly);
      script.onerror = () => {
        plotly = null; // tried again by the next chart
        fail(new Error(script.src));
      };
      document.head.append(script);
    });
    return plotly;
  }

  // Read at once where the address opens a tab of charts; else fetched while the page is idle, and read when a hand comes near the
  // tabs, or later by itself, so that the first chart is drawn at once.
  if (["statistics", "layers"].includes(new URLSearchParams(location.search).get("tab"))) load().catch(console.warn);
  setTimeout(() => {
    const link = document.createElement("link");
    Object.assign(link, { rel: "prefetch", as: "script", href: document.documentElement.dataset.plotly });
    if (!plotly) document.head.append(link);
  }, 2000);
  setTimeout(() => requestIdleCallback(() => load().catch(console.warn)), 8000);
  document.addEventListener("pointerover", (event) => event.target.closest?.("[role=tab]") && load().catch(console.warn));

  // --- colours --------------------------------------------------------------------------------------------------------------
  // What the page has now: text, muted, line, panel, accent, bad, good; kind.q ... by kind of layer; scales.
  function colors() {
    const style = getComputedStyle(document.body);
    const read = (name) => style.getPropertyValue(`--q-${name}`).trim();
    const found = {};
    for (const name of ["text", "muted", "line", "panel", "soft", "accent", "bad", "good", "float", "bits8", "bits4", "fallback", "first", "second", "over"]) {
      found[name] = read(name);
    }
    found.kind = Object.fromEntries(NAMES.map((name) => [name, read(`kind-${name}`)]));
    found.sequential = "Cividis"; // even in lightness, and the same to the colour-blind
    found.diverging = [[0, FROM], [0.5, "#ffffff"], [1, TO]];
    found.dark = document.body.classList.contains("dark");
    return found;
  }

  // Margins are fixed and labels are level: finding out which fit costs Plotly as much time as drawing.
  function axis(given, c) {
    const looks = { gridcolor: c.line, linecolor: c.line, zerolinecolor: c.line, tickcolor: c.line, automargin: false, ticklabeloverflow: "allow", tickangle: 0 };
    return { ...looks, ...given, title: given?.title ? { font: { size: 12, color: c.muted }, standoff: 8, ...given.title } : undefined };
  }

  function dressed(layout, c) {
    const whole = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: c.text },
      margin: { l: 56, r: 16, t: 8, b: 40 }, hovermode: "closest", dragmode: "zoom", autosize: true, showlegend: false,
      hoverlabel: { bgcolor: c.panel, bordercolor: c.line, font: { color: c.text, size: 12 }, align: "left" },
      legend: { orientation: "h", x: 0, y: 1, yref: "container", yanchor: "top", font: { size: 12 } },
      ...layout,
    };
    for (const key of Object.keys(whole)) if (/^[xy]axis\d*$/.test(key)) whole[key] = axis(whole[key], c);
    whole.xaxis ??= axis({}, c);
    whole.yaxis ??= axis({}, c);
    return whole;
  }

  // --- drawing --------------------------------------------------------------------------------------------------------------
  // `build(colors)` gives {data, layout}. Options, all of them optional: file (name of exports without its end), csv (a function that
  // gives {columns, rows} or text, or a promise of one), click, hover (null when left; both called with Plotly's event), painted,
  // seen (the part of the axes to show, null for all), zoom(seen) (called when a hand has chosen another),
  // box(from, to) (called when a hand has dragged over a stretch of the x axis),
  // key(colors) (traces for the legend of saved pictures, where the page has a key of its own),
  // handle ({value, text(value), label, move(value), drop(value)}: a horizontal line that can be dragged, in units of the y axis).
  async function draw(figure, build, options = {}) {
    const state = states.get(figure) ?? fresh(figure);
    state.build = build;
    state.options = options;
    state.seen = options.seen ?? null;
    state.box.classList.toggle("chart-stretches", Boolean(options.box));
    if (state.box.getBoundingClientRect().top < innerHeight) return paint(state);
    requestIdleCallback(() => paint(state), { timeout: 600 }); // what is seen comes first
  }

  // When the browser has nothing to do, or soon.
  const idle = () => new Promise((done) => requestIdleCallback(done, { timeout: 300 }));

  // Does something once what is there has been painted and seen.
  const later = (act, rest = 40) => requestAnimationFrame(() => setTimeout(act, rest));

  function fresh(figure) {
    const state = { figure, box: figure.querySelector("[data-plot]"), width: 0, height: 0, drawn: false };
    states.set(figure, state);
    new ResizeObserver(() => {
      const { clientWidth: width, clientHeight: height } = state.box;
      if (state.build && width && (width !== state.width || height !== state.height)) paint(state);
    }).observe(state.box);
    figure.addEventListener("click", (event) => {
      const tool = event.target.closest("[data-tool]");
      if (tool) use(state, tool);
    });
    return state;
  }

  // Gradio's <base> has Plotly name clips by the page's address, once for all. That changes with what is looked at, and pictures
  // are then cut by clips of another page, which are nothing: a window of another height would show them empty.
  function local(box, draw) {
    const base = box._context ? null : document.querySelector("base[href]");
    const href = base?.getAttribute("href");
    base?.removeAttribute("href");
    try {
      return draw();
    } finally {
      base?.setAttribute("href", href);
    }
  }

  async function paint(state) {
    const turn = (state.turn = (state.turn ?? 0) + 1);
    const library = await load();
    const { clientWidth: width, clientHeight: height } = state.box;
    if (turn !== state.turn || !width) return; // drawn anew meanwhile, or not to be seen: drawn when it is
    Object.assign(state, { width, height });
    const c = colors();
    const made = state.build(c);
    const layout = { ...dressed(made.layout ?? {}, c), width, height };
    const [left, right, low, high] = state.seen ?? [];
    if (right !== undefined) layout.xaxis.range = [left, right];
    if (high !== undefined) layout.yaxis.range = [low, high];
    await local(state.box, () => library.react(state.box, made.data, layout, CONFIG));
    if (!state.drawn) listen(state);
    state.drawn = true;
    if (state.options.handle) place(state);
    else state.line?.remove();
    state.marks?.remove(); // they were places of the old picture
    offer(state);
    state.figure.dataset.drawn = turn;
    state.options.painted?.();
  }

  function listen(state) {
    stretch(state);
    state.box.on("plotly_click", (event) => state.boxing || state.options.click?.(event));
    state.box.on("plotly_hover", (event) => state.options.hover?.(event));
    state.box.on("plotly_unhover", () => state.options.hover?.(null));
    state.box.on("plotly_relayout", (event) => {
      if (state.options.handle) place(state);
      const named = (axis) => Object.keys(event).some((key) => key.startsWith(`${axis}.range`));
      if (!named("xaxis") && !named("yaxis")) return;
      const { xaxis, yaxis } = state.box._fullLayout;
      const both = named("yaxis") || state.seen?.length === 4;
      narrow(state, [...xaxis.range, ...(both ? yaxis.range : [])].map((at) => Number(at.toPrecision(6))));
    });
    state.box.on("plotly_doubleclick", () => whole(state));
  }

  // --- a part of the axes that is looked at closer --------------------------------------------------------------------------
  // [left, right] of the x axis, or [left, right, bottom, top] where both are narrower; null where all is seen.
  function narrow(state, seen) {
    state.seen = seen;
    offer(state);
    state.options.zoom?.(seen);
  }

  // A double click shows all too, but not where the first click leads to another view.
  function whole(state) {
    narrow(state, null);
    return paint(state);
  }

  function offer({ figure, seen }) {
    const button = figure.querySelector('[data-tool="whole"]');
    if (button) button.hidden = !seen;
  }

  // What an address says is seen.
  function seen(text) {
    const ends = (text ?? "").split("_").map(Number);
    const [left, right, low = 0, high = 1] = ends;
    return [2, 4].includes(ends.length) && ends.every(Number.isFinite) && left < right && low < high ? ends : null;
  }

  const painted = () => states.forEach((state) => state.figure.isConnected ? state.build && paint(state) : states.delete(state.figure));
  let dark = null;
  new MutationObserver(() => {
    const now = document.body.classList.contains("dark");
    if (dark !== null && now !== dark) painted();
    dark = now;
  }).observe(document.body, { attributes: true, attributeFilter: ["class"] });

  // --- a stretch that is dragged over ---------------------------------------------------------------------------------------
  // Plotly's own selection waits up to a tenth of a second before it says what was selected, and draws everything anew for it.
  function stretch(state) {
    const LEAST = 8; // pixels; what is shorter is a click, to Plotly too
    state.box.addEventListener("pointerdown", (event) => {
      state.boxing = false;
      if (!state.options.box || event.button || !event.target.closest(".nsewdrag")) return;
      const { xaxis, yaxis } = state.box._fullLayout;
      const edge = state.box.getBoundingClientRect().left + xaxis._offset;
      const place = ({ clientX }) => Math.min(Math.max(clientX - edge, 0), xaxis._length);
      const [from, top] = [place(event), event.clientY];
      const heard = new AbortController();
      const { signal } = heard;
      const stripe = document.createElement("div");
      stripe.className = "chart-stretch";
      const moved = (event) => {
        const to = place(event);
        if (!state.boxing && Math.max(Math.abs(to - from), Math.abs(event.clientY - top)) < LEAST) return;
        if (!state.boxing) {
          plotly.then((library) => library.Fx.unhover(state.box)); // its label would hide what is dragged over
          state.box.parentElement.append(stripe);
        }
        state.boxing = true;
        const left = xaxis._offset + Math.min(from, to);
        Object.assign(stripe.style, { left: `${left}px`, width: `${Math.abs(to - from)}px`, top: `${yaxis._offset}px`, height: `${yaxis._length}px` });
      };
      const ended = (event) => {
        heard.abort();
        stripe.remove();
        const ends = [from, place(event)].map((at) => xaxis.p2d(at)).sort((a, b) => a - b);
        if (state.boxing && event.type === "pointerup") state.options.box(...ends);
      };
      addEventListener("pointermove", moved, { signal });
      for (const end of ["pointerup", "pointercancel"]) addEventListener(end, ended, { signal });
    });
  }

  // --- the line that can be dragged -----------------------------------------------------------------------------------------
  function place(state) {
    const { handle } = state.options;
    if (!state.line?.isConnected) grow(state);
    state.line.setAttribute("aria-label", handle.label);
    const { xaxis, yaxis } = state.box._fullLayout;
    const at = Math.min(Math.max(yaxis.d2p(handle.value), 0), yaxis._length);
    Object.assign(state.line.style, { left: `${xaxis._offset}px`, width: `${xaxis._length}px`, top: `${yaxis._offset + at}px` });
    state.line.setAttribute("aria-valuenow", handle.value);
    state.line.firstChild.textContent = handle.text(handle.value);
  }

  function grow(state) {
    const line = (state.line = document.createElement("div"));
    line.className = "chart-handle";
    line.tabIndex = 0;
    line.setAttribute("role", "slider");
    line.append(document.createElement("span"));
    state.box.parentElement.append(line);
    const moved = (value) => {
      state.options.handle.value = value;
      place(state);
      state.options.handle.move?.(value);
    };
    const read = (event) => {
      const { yaxis } = state.box._fullLayout;
      const from = state.box.getBoundingClientRect().top + yaxis._offset;
      return yaxis.p2d(Math.min(Math.max(event.clientY - from, 0), yaxis._length));
    };
    line.addEventListener("pointerdown", (event) => {
      line.setPointerCapture(event.pointerId);
      event.preventDefault();
      line.focus();
    });
    line.addEventListener("pointermove", (event) => line.hasPointerCapture(event.pointerId) && moved(read(event)));
    line.addEventListener("pointerup", () => state.options.handle.drop?.(state.options.handle.value));
    line.addEventListener("keydown", (event) => {
      const way = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
      if (!way) return;
      event.preventDefault();
      const { yaxis } = state.box._fullLayout;
      moved(yaxis.p2d(yaxis.d2p(state.options.handle.value) - way * yaxis._length / 100));
      state.options.handle.drop?.(state.options.handle.value);
    });
  }

  // Lights up places of the x axis, each so wide, without drawing anew.
  function mark(figure, places, width = 1) {
    const state = states.get(figure);
    if (!state?.drawn) return;
    const { xaxis, yaxis } = state.box._fullLayout;
    const one = Math.abs(xaxis.d2p(width) - xaxis.d2p(0));
    state.marks?.remove();
    state.marks = document.createElement("div");
    for (const place of places) {
      const stripe = document.createElement("i");
      const wide = Math.max(one, 5);
      const left = xaxis.d2p(place) - wide / 2;
      if (left < -wide || left > xaxis._length) continue;
      Object.assign(stripe.style, { left: `${xaxis._offset + left}px`, top: `${yaxis._offset}px`, width: `${wide}px`, height: `${yaxis._length}px` });
      state.marks.append(stripe);
    }
    state.marks.className = "chart-marks";
    state.box.parentElement.append(state.marks);
  }

  // Draws a frame around one cell of a heat map.
  function cell(figure, x, y) {
    mark(figure, []);
    const state = states.get(figure);
    if (!state?.drawn || x === null) return;
    const { xaxis, yaxis } = state.box._fullLayout;
    const size = { width: Math.abs(xaxis.d2p(1) - xaxis.d2p(0)), height: Math.abs(yaxis.d2p(1) - yaxis.d2p(0)) };
    const frame = document.createElement("b");
    const left = xaxis._offset + xaxis.d2p(x) - size.width / 2;
    const top = yaxis._offset + yaxis.d2p(y) - size.height / 2;
    Object.assign(frame.style, { left: `${left}px`, top: `${top}px`, width: `${size.width}px`, height: `${size.height}px` });
    state.marks.append(frame);
  }

  // --- many marks as one ----------------------------------------------------------------------------------------------------
  // Plotly makes an element of every stretch between two gaps, and styles each. As one shape, hundreds cost what one costs. They
  // stand above the traces: the layer between grid and traces keeps shapes that are gone (plotly.js 7.1).
  const one = (path, looks) => ({ type: "path", path, line: { width: 0 }, fillcolor: "rgba(0,0,0,0)", ...looks });

  // Strokes from (x, low) to (x, high), each [x, low, high], so many pixels wide.
  const upright = (strokes, color, width) => one(strokes.map(([x, low, high]) => `M${x},${low}V${high}`).join(""), { line: { color, width } });

  // Strokes from (left, y) to (right, y), each [left, right, y].
  const level = (strokes, color, width) => one(strokes.map(([left, right, y]) => `M${left},${y}H${right}`).join(""), { line: { color, width } });

  // Rectangles, each [left, right, low, high].
  const boxes = (list, looks) => one(list.map(([left, right, low, high]) => `M${left},${low}H${right}V${high}H${left}Z`).join(""), looks);

  // What stands in the legend for a shape.
  const entry = (name, color, looks = {}) => ({ type: "scatter", mode: "lines", x: [null], y: [null], name, hoverinfo: "skip", line: { color, width: 6 }, ...looks });

  // Ticks of a logarithmic axis as powers of ten, which Plotly writes a quarter larger than others.
  const powers = { exponentformat: "power", tickfont: { size: 10 } };

  // --- a distribution under a grid --------------------------------------------------------------------------------------------
  // `spread` as quantui/ui/statistics_views.py tells it; words: value and count, and the file's name without its end.
  function histogram(figure, spread, words, options = {}) {
    const { counts, start, step, levels, low, high } = spread;
    const x = counts.map((_, i) => start + i * step);
    const most = Math.max(...counts);
    const end = start + counts.length * step;
    const build = (c) => {
      const few = levels.length <= 32;
      const shade = (x0, x1) => ({ type: "rect", xref: "x", yref: "paper", x0, x1, y0: 0, y1: 1, line: { width: 0 }, fillcolor: c.over, opacity: 0.14, layer: "below" });
      const shapes = [{ ...upright(levels.map((v) => [v, 0, few ? 1 : 0.1]), c.bits4, few ? 1 : 0.8), yref: "paper" }];
      if (low > start) shapes.push(shade(start, low));
      if (high < end) shapes.push(shade(high, end));
      return {
        data: [
          {
            type: "scatter", mode: "lines", x: [...x, end], y: [...counts, 0].map((n) => Math.max(n, 0.5)), line: { shape: "hv", width: 1, color: c.bits8 }, fill: "tozeroy",
            fillcolor: fade(c.bits8, 0.3), hovertemplate: "%{x:.4~g}: %{y:,.0f}<extra></extra>",
          },
        ],
        layout: {
          shapes, margin: { l: 56, r: 12, t: 8, b: 40 }, xaxis: { title: { text: words.value }, range: [start, end], zeroline: false, showgrid: false },
          yaxis: { type: "log", range: [Math.log10(0.5), Math.log10(most * 1.6)], title: { text: words.count }, dtick: Math.max(1, Math.ceil(Math.log10(most) / 5)), ...powers },
        },
      };
    };
    return draw(figure, build, {
      ...options, file: words.file,
      csv: () => ({ columns: ["from", "to", "count"], rows: counts.map((n, i) => [x[i], x[i] + step, n]) }),
    });
  }

  // --- the toolbar ----------------------------------------------------------------------------------------------------------
  async function use(state, button) {
    const { tool } = button.dataset;
    const file = (state.options.file ?? state.figure.dataset.chart).replace(/[^\p{L}\p{N}._-]+/gu, "-");
    if (tool === "whole") return whole(state);
    if (tool === "link") return quantui.copy(location.href, button);
    if (tool === "csv") {
      const told = await (state.options.csv?.() ?? { columns: [], rows: [] });
      return told === null ? undefined : save(typeof told === "string" ? told : csv(told), `${file}.csv`);
    }
    const library = await load();
    const c = colors();
    const { layout } = state.box;
    const { handle, key } = state.options;
    const entries = key?.(c) ?? []; // what stands beside the chart on the page, and the line over it
    const title = state.figure.querySelector("[data-chart-title]").textContent;
    const margin = { ...layout.margin, t: (layout.margin?.t ?? 8) + (entries.length ? 64 : 40) };
    const size = Math.min(15, (1.8 * state.width) / title.length); // on one line
    const head = { text: title, x: 0.01, xanchor: "left", y: 1, yref: "container", yanchor: "top", pad: { t: 12 }, font: { size, color: c.text } };
    const across = { xref: "paper", y0: handle?.value, y1: handle?.value, x0: 0, x1: 1, line: { color: c.over, width: 1.5, dash: "dash" } };
    const shapes = handle ? [{ type: "line", ...across, label: { text: handle.text(handle.value), textposition: "end", font: { color: c.over } } }] : [];
    const picture = {
      data: [...state.box.data, ...entries],
      layout: { ...layout, margin, paper_bgcolor: c.panel, plot_bgcolor: c.panel, title: head, legend: { ...layout.legend, y: 1 - 40 / (state.height + 40) },
        shapes: [...(layout.shapes ?? []), ...shapes], showlegend: layout.showlegend || entries.length > 0,
      },
    };
    return library.downloadImage(picture, { format: tool, width: state.width, height: state.height + 40, scale: tool === "png" ? 2 : 1, filename: file });
  }

  function csv({ columns, rows }) {
    const cell = (value) => {
      const text = value === null || value === undefined ? "" : String(value);
      return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  }

  function save(text, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv;charset=utf-8" })); // Excel needs the mark
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // --- numbers --------------------------------------------------------------------------------------------------------------
  // Four digits that count: "123.4", "0.01312", "1.2e-7".
  function short(value, digits = 4) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size >= 1e6 || size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
  }

  // A logarithm to both sides of zero, linear close to it, so that negative values have a place: {to, back, ticks(values)}.
  // `unit` is where it turns linear; 0 gives plain values.
  function fold(unit) {
    if (!unit) return { to: (v) => v, back: (v) => v, ticks: () => ({}) };
    const to = (v) => (v === null || v === undefined ? null : Math.sign(v) * Math.log10(1 + Math.abs(v) / unit));
    const back = (v) => Math.sign(v) * (10 ** Math.abs(v) - 1) * unit;
    const ticks = (values) => {
      const most = values.reduce((far, v) => Math.max(far, Math.abs(v ?? 0)), 0);
      const steps = [];
      for (let tick = unit; tick <= most * 1.01; tick *= 10) steps.push(Number(tick.toPrecision(1)));
      const few = Math.ceil(steps.length / 4);
      const kept = steps.filter((_, i) => (steps.length - 1 - i) % few === 0);
      const all = [...kept.map((v) => -v).reverse(), 0, ...kept];
      return { tickmode: "array", tickvals: all.map(to), ticktext: all.map((v) => short(v)) };
    };
    return { to, back, ticks };
  }

  // The power of ten below the middle of some magnitudes.
  function unit(values) {
    const sorted = values.filter((v) => v > 0).sort((a, b) => a - b);
    return sorted.length ? 10 ** Math.floor(Math.log10(sorted[sorted.length >> 1])) : 1;
  }

  // A colour of the page, seen through.
  function fade(color, share) {
    const parts = /^#(..)(..)(..)$/.exec(color)?.slice(1).map((part) => parseInt(part, 16)) ?? [138, 143, 153];
    return `rgba(${parts.join(",")},${share})`;
  }

  return { fade, fold, unit, idle, later, load, colors, draw, upright, level, boxes, entry, powers, histogram, seen, mark, cell, csv, save, short };
})();
