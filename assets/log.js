// The live log: a virtual list. Rows are plain data; only those in sight are elements, and text only ever becomes text nodes.
(() => {
  const ROW = 20; // height of a line in px, as in log.css
  const SPARE = 15; // rows drawn beyond each edge
  const LEVELS = ["debug", "info", "warning", "error"];
  const two = (n) => String(n).padStart(2, "0");
  const clock = (seconds) => {
    const d = new Date(seconds * 1000);
    return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
  };
  // Columns a text takes in a monospaced font: East Asian characters take two.
  const columns = (text) => {
    let wide = 0;
    for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 0x2e7f) wide++;
    return text.length + wide;
  };
  const fill = (template, values) => template.replace(/\{(\w+)\}/g, (_, key) => values[key]);

  class Log {
    constructor(root) {
      this.root = root;
      this.part = (name) => root.querySelector(`[data-log="${name}"]`);
      this.lines = root.querySelector(".log-lines");
      this.sheet = root.querySelector(".log-sheet");
      this.holder = root.querySelector(".log-rows");
      this.search = this.part("search");
      this.reset();
      this.listen();
    }

    reset() {
      this.rows = []; // every line: {time, level, source, text, low}
      this.shown = []; // indexes of the rows that pass the level
      this.hits = []; // positions in `shown` that hold the searched text
      this.hit = -1;
      this.taken = 0; // rows that `shown` has looked at; fewer than there are while paused
      this.widest = 0;
      this.paused = false;
      this.follow = true;
      this.drawn = new Map(); // position in `shown` -> element
      this.holder.replaceChildren();
      this.refilter();
    }

    push(lines) {
      for (const [, time, level, source, text] of lines) {
        for (const part of text.split("\n")) this.rows.push({ time, level, source, text: part, low: null });
      }
      if (this.paused) this.label();
      else this.take();
    }

    take() {
      const least = Number(this.part("level").value);
      const query = this.search.value.toLowerCase();
      for (; this.taken < this.rows.length; this.taken++) {
        const row = this.rows[this.taken];
        if (LEVELS.indexOf(row.level) < least) continue;
        if (query && this.holds(row, query)) this.hits.push(this.shown.length);
        this.shown.push(this.taken);
        this.widest = Math.max(this.widest, columns(row.text));
      }
      this.measure();
    }

    refilter() {
      this.shown = [];
      this.hits = [];
      this.hit = -1;
      this.taken = 0;
      this.widest = 0;
      this.redraw();
      this.take();
    }

    holds(row, query) {
      row.low ??= row.text.toLowerCase();
      return row.low.includes(query);
    }

    find() {
      const query = this.search.value.toLowerCase();
      this.hits = [];
      if (query) this.shown.forEach((index, at) => this.holds(this.rows[index], query) && this.hits.push(at));
      this.hit = -1;
      if (this.hits.length) this.go(this.hits.length - 1);
      this.redraw();
      this.measure();
    }

    go(to) {
      if (!this.hits.length) return;
      this.hit = (to + this.hits.length) % this.hits.length;
      this.follow = false;
      const top = this.hits[this.hit] * ROW;
      const { scrollTop, clientHeight } = this.lines;
      if (top < scrollTop || top + ROW > scrollTop + clientHeight) this.lines.scrollTop = top - clientHeight / 2;
      this.redraw();
      this.measure();
    }

    measure() {
      this.sheet.style.height = `${this.shown.length * ROW}px`;
      this.sheet.style.minWidth = `calc(${this.widest}ch + 190px)`;
      if (this.follow) this.lines.scrollTop = this.lines.scrollHeight;
      this.label();
      this.draw();
    }

    label() {
      const count = this.part("count");
      const n = this.rows.length;
      const shown = this.shown.length;
      const words = this.taken > shown ? count.dataset.part : n === 1 ? count.dataset.one : count.dataset.other;
      count.textContent = n ? fill(words, { n: n.toLocaleString("en"), shown: shown.toLocaleString("en") }) : "";
      this.part("empty").hidden = n > 0;
      const matches = this.part("matches");
      const searching = this.search.value !== "";
      const at = this.hits.length ? this.hit + 1 || "–" : 0;
      matches.textContent = !searching ? "" : at ? fill(matches.dataset.text, { i: at, n: this.hits.length }) : matches.dataset.none;
      this.part("previous").disabled = this.part("next").disabled = !this.hits.length;
      const pause = this.part("pause");
      const fresh = this.rows.length - this.taken;
      pause.textContent = !this.paused ? pause.dataset.pause : fresh ? fill(pause.dataset.new, { n: fresh }) : pause.dataset.resume;
      pause.setAttribute("aria-pressed", String(this.paused));
      this.part("newest").hidden = this.follow || this.paused || !this.shown.length;
    }

    redraw() {
      for (const element of this.drawn.values()) element.remove();
      this.drawn.clear();
    }

    draw() {
      const first = Math.max(0, Math.floor(this.lines.scrollTop / ROW) - SPARE);
      const last = Math.min(this.shown.length, Math.ceil((this.lines.scrollTop + this.lines.clientHeight) / ROW) + SPARE);
      for (const [at, element] of this.drawn) {
        if (at < first || at >= last) {
          element.remove();
          this.drawn.delete(at);
        }
      }
      const query = this.search.value.toLowerCase();
      const current = this.hits[this.hit];
      for (let at = first; at < last; at++) {
        if (this.drawn.has(at)) continue;
        const element = this.element(this.rows[this.shown[at]], query, at === current);
        element.style.top = `${at * ROW}px`;
        this.drawn.set(at, element);
        this.holder.append(element);
      }
    }

    element(row, query, current) {
      const line = document.createElement("div");
      line.className = `log-row ${row.level}${current ? " current" : ""}`;
      const piece = (name, text) => {
        const span = document.createElement("span");
        span.className = name;
        span.textContent = text;
        line.append(span);
        return span;
      };
      piece("at", clock(row.time));
      piece("level", row.level);
      const text = piece("text", "");
      text.title = `${row.source}: ${row.text}`;
      this.marked(text, row, query);
      return line;
    }

    marked(into, row, query) {
      if (!query || !this.holds(row, query)) {
        into.textContent = row.text;
        return;
      }
      let from = 0;
      for (let at = row.low.indexOf(query); at >= 0; at = row.low.indexOf(query, from)) {
        const mark = document.createElement("mark");
        mark.textContent = row.text.slice(at, at + query.length);
        into.append(row.text.slice(from, at), mark);
        from = at + query.length;
      }
      into.append(row.text.slice(from));
    }

    listen() {
      let waiting = false;
      this.lines.addEventListener("scroll", () => {
        if (waiting) return;
        waiting = true;
        requestAnimationFrame(() => {
          waiting = false;
          const { scrollTop, clientHeight, scrollHeight } = this.lines;
          this.follow = scrollTop + clientHeight >= scrollHeight - ROW / 2;
          this.label();
          this.draw();
        });
      });
      new ResizeObserver(() => this.measure()).observe(this.lines);
      this.search.addEventListener("input", () => this.find());
      this.search.addEventListener("keydown", (event) => {
        if (event.key === "Enter") this.go(this.hit + (event.shiftKey ? -1 : 1));
      });
      this.part("previous").addEventListener("click", () => this.go(this.hit - 1));
      this.part("next").addEventListener("click", () => this.go(this.hit + 1));
      this.part("level").addEventListener("change", () => this.refilter());
      this.part("newest").addEventListener("click", () => {
        this.follow = true;
        this.measure();
      });
      this.part("pause").addEventListener("click", () => {
        this.paused = !this.paused;
        if (this.paused) this.label();
        else this.take();
      });
      this.part("copy").addEventListener("click", () => this.copy());
    }

    async copy() {
      const lines = this.shown.map((index) => {
        const row = this.rows[index];
        return `${clock(row.time)} ${row.level.padEnd(7)} ${row.text}`;
      });
      await quantui.copy(lines.join("\n"), this.part("copy"));
    }
  }

  window.quantuiLog = { attach: (root) => new Log(root) };
})();
