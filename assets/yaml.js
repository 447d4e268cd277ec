// The YAML editor: a textarea with transparent text over a coloured copy of it, line numbers, and marks on lines.
(() => {
  const LINE = 20; // height of a line in px, as in recipe.css
  const TOKEN = /(#.*$)|("(?:[^"\\]|\\.)*"|'[^']*')|([\w.*-]+|"[^"]*")(?=\s*:(?:\s|$))|(?<![\w./-])(true|false|null|-?\d[\d.]*(?:e-?\d+)?)(?![\w./-])/g;

  class Editor {
    constructor(root, changed) {
      this.part = (name) => root.querySelector(`[data-yaml="${name}"]`);
      this.area = this.part("text");
      this.copy = this.part("copy");
      this.numbers = document.createElement("div");
      this.part("gutter").append(this.numbers);
      this.marks = [];
      this.area.addEventListener("input", () => {
        this.draw();
        changed(this.area.value);
      });
      this.area.addEventListener("scroll", () => this.follow());
      this.area.addEventListener("keydown", (event) => this.indent(event));
    }

    get text() {
      return this.area.value;
    }

    // Another text, with the caret and the scroll left where they are as far as that goes.
    set(text) {
      if (text === this.area.value) return;
      const { selectionStart, selectionEnd, scrollTop } = this.area;
      const focused = document.activeElement === this.area;
      this.area.value = text;
      if (focused) this.area.setSelectionRange(Math.min(selectionStart, text.length), Math.min(selectionEnd, text.length));
      this.area.scrollTop = scrollTop;
      this.draw();
    }

    mark(marks) {
      if (JSON.stringify(marks) === JSON.stringify(this.marks)) return; // thousands of lines are drawn once
      this.marks = marks;
      this.draw();
    }

    // Tab writes two blanks, as YAML wants; Escape first lets Tab leave the field.
    indent(event) {
      if (event.key === "Escape") this.leaving = true;
      else if (event.key === "Tab" && !event.shiftKey && !this.leaving) {
        event.preventDefault();
        document.execCommand("insertText", false, "  ");
      } else if (event.key !== "Shift") this.leaving = false;
    }

    show(line) {
      const top = (line - 1) * LINE;
      if (top < this.area.scrollTop || top + LINE > this.area.scrollTop + this.area.clientHeight) {
        this.area.scrollTop = Math.max(0, top - this.area.clientHeight / 3);
      }
      const before = this.area.value.split("\n").slice(0, line - 1).join("\n").length;
      const at = line > 1 ? before + 1 : 0;
      this.area.focus({ preventScroll: true });
      this.area.setSelectionRange(at, at);
      this.follow();
    }

    follow() {
      this.copy.style.transform = `translate(${-this.area.scrollLeft}px, ${-this.area.scrollTop}px)`;
      this.numbers.style.transform = `translateY(${-this.area.scrollTop}px)`;
    }

    draw() {
      const told = new Map();
      for (const [line, severity, text] of this.marks) {
        const known = told.get(line);
        if (!known) told.set(line, { severity, text });
        else known.text += `\n${text}`;
      }
      const lines = this.area.value.split("\n");
      const copies = [];
      const numbers = [];
      lines.forEach((text, index) => {
        const mark = told.get(index + 1);
        const row = document.createElement("span");
        row.className = `row ${mark?.severity ?? ""}`;
        this.colour(row, text);
        copies.push(row);
        const number = document.createElement("span");
        number.className = `number ${mark?.severity ?? ""}`;
        number.textContent = String(index + 1);
        if (mark) number.title = mark.text;
        numbers.push(number);
      });
      this.copy.replaceChildren(...copies);
      this.numbers.replaceChildren(...numbers);
      this.follow();
    }

    colour(row, text) {
      let from = 0;
      for (const found of text.matchAll(TOKEN)) {
        const kind = found[1] ? "comment" : found[3] ? "key" : found[2] ? "string" : "value";
        const piece = document.createElement("span");
        piece.className = kind;
        piece.textContent = found[0];
        row.append(text.slice(from, found.index), piece);
        from = found.index + found[0].length;
      }
      row.append(text.slice(from));
    }
  }

  window.quantuiYaml = { attach: (root, changed) => new Editor(root, changed) };
})();
