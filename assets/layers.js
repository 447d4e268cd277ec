// The layer table: rows are plain data and only those in sight are elements; a click selects, shift-click selects a range.
(() => {
  const ROW = 28; // height of a row in px, as in recipe.css
  const SPARE = 8;
  const fill = (template, values) => template.replace(/\{(\w+)\}/g, (_, key) => values[key]);

  class Layers {
    constructor(root, edit) {
      this.edit = edit;
      this.part = (name) => root.querySelector(`[data-layers="${name}"]`);
      this.body = this.part("body");
      this.sheet = root.querySelector(".layers-sheet");
      this.filter = this.part("filter");
      this.stamp = null; // of the part of the rows that the model fixes
      this.fixed = [];
      this.cells = [];
      this.schemes = [];
      this.rules = [];
      this.shown = []; // indexes of rows that the filter leaves
      this.selected = new Set(); // names
      this.at = 0; // position in `shown` where a range begins
      this.listen();
    }

    set(told) {
      if (told.fixed) {
        this.fixed = told.fixed;
        const names = new Set(told.fixed.map(([name]) => name));
        this.selected = new Set([...this.selected].filter((name) => names.has(name)));
      }
      this.stamp = told.stamp;
      this.cells = told.cells;
      this.schemes = told.schemes;
      this.rules = told.rules;
      this.sift();
    }

    sift() {
      const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      this.shown = [];
      this.fixed.forEach(([name, shape], index) => {
        const [scheme, rule] = this.cells[index];
        const text = `${name} ${shape} ${this.schemes[scheme][0]} ${this.rules[rule][0]}`.toLowerCase();
        if (words.every((word) => text.includes(word))) this.shown.push(index);
      });
      this.sheet.style.height = `${this.shown.length * ROW}px`;
      this.part("empty").hidden = this.shown.length > 0 || !this.fixed.length;
      this.draw();
      this.label();
    }

    label() {
      const count = this.part("count");
      const n = this.fixed.length;
      const all = fill(n === 1 ? count.dataset.one : count.dataset.all, { n: n.toLocaleString("en") });
      count.textContent = this.shown.length < n ? fill(count.dataset.part, { shown: this.shown.length, n: all }) : all;
      const chosen = this.part("selected");
      const many = this.selected.size;
      const words = many === 1 ? chosen.dataset.one : chosen.dataset.other;
      chosen.textContent = many ? fill(words, { n: many.toLocaleString("en") }) : chosen.dataset.none;
      for (const name of ["float", "restore", "scheme", "none"]) this.part(name).disabled = !many;
    }

    draw() {
      const first = Math.max(0, Math.floor(this.body.scrollTop / ROW) - SPARE);
      const last = Math.min(this.shown.length, Math.ceil((this.body.scrollTop + this.body.clientHeight) / ROW) + SPARE);
      const rows = [];
      for (let at = first; at < last; at++) rows.push(this.row(at));
      this.sheet.replaceChildren(...rows);
    }

    row(at) {
      const index = this.shown[at];
      const [name, shape, before] = this.fixed[index];
      const [scheme, rule, after] = this.cells[index];
      const [words, kind] = this.schemes[scheme];
      const [said, whole] = this.rules[rule];
      const chosen = this.selected.has(name);
      const line = document.createElement("div");
      line.className = `layer-row${chosen ? " selected" : ""}${at === this.at && this.keyed ? " current" : ""}`;
      line.style.top = `${at * ROW}px`;
      line.dataset.at = at;
      line.dataset.layer = name;
      line.setAttribute("role", "row");
      line.setAttribute("aria-selected", String(chosen));
      const cell = (what, text, hint) => {
        const span = document.createElement("span");
        span.className = `cell ${what}`;
        span.setAttribute("role", "gridcell");
        span.textContent = text;
        if (hint) span.title = hint;
        line.append(span);
        return span;
      };
      const box = document.createElement("i");
      box.className = "box";
      cell("pick", "").append(box);
      this.name(cell("name", "", name), name);
      cell("shape", shape);
      const chip = cell("scheme", "");
      const inner = document.createElement("span");
      inner.className = `scheme ${kind}`;
      const swatch = document.createElement("i");
      swatch.className = "swatch";
      inner.append(swatch, words);
      chip.append(inner);
      cell("rule", said, whole);
      cell("before", before);
      cell("after", after).classList.toggle("same", before === after);
      return line;
    }

    // The name in two parts, of which the first is cut where there is little room.
    name(into, name) {
      const parts = name.split(".");
      const numbers = parts.map((part, i) => (/^\d+$/.test(part) ? i : -1)).filter((i) => i >= 0);
      const start = numbers.length ? numbers.at(-1) : Math.max(parts.length - 2, 0);
      const cut = document.createElement("span");
      cut.className = "cut";
      for (const [what, text] of [["head", parts.slice(0, start).map((p) => `${p}.`).join("")], ["tail", parts.slice(start).join(".")]]) {
        const span = document.createElement("span");
        span.className = what;
        span.textContent = text;
        cut.append(span);
      }
      into.append(cut);
    }

    choose(at, range) {
      if (at < 0 || at >= this.shown.length) return;
      const names = (from, to) => this.shown.slice(Math.min(from, to), Math.max(from, to) + 1).map((i) => this.fixed[i][0]);
      if (range) {
        for (const name of names(this.at, at)) this.selected.add(name);
      } else {
        const [name] = names(at, at);
        if (!this.selected.delete(name)) this.selected.add(name);
        this.at = at;
      }
      this.draw();
      this.label();
    }

    none() {
      this.selected.clear();
      this.draw();
      this.label();
    }

    change(action, more = {}) {
      const order = new Map(this.fixed.map(([name], index) => [name, index]));
      const layers = [...this.selected].sort((one, other) => order.get(one) - order.get(other));
      if (layers.length) this.edit({ action, layers, ...more });
    }

    listen() {
      this.body.addEventListener("scroll", () => requestAnimationFrame(() => this.draw()));
      new ResizeObserver(() => this.draw()).observe(this.body);
      this.filter.addEventListener("input", () => {
        this.body.scrollTop = 0;
        this.at = 0;
        this.sift();
      });
      this.body.addEventListener("mousedown", (event) => event.shiftKey && event.preventDefault()); // no text selection
      this.body.addEventListener("click", (event) => {
        const row = event.target.closest(".layer-row");
        this.keyed = false;
        if (row) this.choose(Number(row.dataset.at), event.shiftKey);
      });
      this.body.addEventListener("keydown", (event) => this.key(event));
      this.part("float").addEventListener("click", () => this.change("float"));
      this.part("restore").addEventListener("click", () => this.change("restore"));
      this.part("none").addEventListener("click", () => this.none());
      this.part("every").addEventListener("click", () => {
        for (const index of this.shown) this.selected.add(this.fixed[index][0]);
        this.draw();
        this.label();
      });
      this.part("scheme").addEventListener("change", (event) => {
        if (event.target.value) this.change("scheme", { scheme: event.target.value });
        event.target.value = "";
      });
    }

    key(event) {
      const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
      if (step) {
        event.preventDefault();
        this.keyed = true;
        const to = Math.max(0, Math.min(this.shown.length - 1, this.at + step));
        if (event.shiftKey) this.choose(to, true);
        this.at = to;
        const top = to * ROW;
        if (top < this.body.scrollTop) this.body.scrollTop = top;
        else if (top + ROW > this.body.scrollTop + this.body.clientHeight) this.body.scrollTop = top + ROW - this.body.clientHeight;
        this.draw();
      } else if (event.key === " " || event.key === "Enter") {
        event.preventDefault();
        this.keyed = true;
        this.choose(this.at, false);
      } else if (event.key === "Escape") this.none();
    }
  }

  window.quantuiLayers = { attach: (root, edit) => new Layers(root, edit) };
})();
