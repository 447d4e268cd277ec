// The Recipe tab: brings every edit to the server, one at a time, and shows what came of it in the form, the text and the table.
window.quantuiRecipe = (() => {
  const TYPING = 80; // ms without a key before typed text is sent

  class Bench extends quantuiLink.Link {
    constructor(root, server, props) {
      super(root, server, props);
      this.base = null;
      this.timer = null;
      this.bench = (name) => root.querySelector(`[data-bench="${name}"]`);
      this.editor = quantuiYaml.attach(root.querySelector('[data-yaml="root"]'), () => this.typed());
      this.layers = quantuiLayers.attach(root.querySelector('[data-layers="root"]'), (asked) => this.ask(asked));
      this.listen();
      this.look();
    }

    // --- asking -------------------------------------------------------------------------------------------------------------
    typed() {
      this.dirty = true;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.flush(), TYPING);
    }

    flush() {
      clearTimeout(this.timer);
      if (!this.dirty) return;
      this.dirty = false;
      this.queue = this.queue.filter((asked) => asked.action !== "text");
      this.queue.push({ action: "text", text: this.editor.text });
      this.next();
    }

    ask(asked) {
      if (asked.action !== "look" && asked.action !== "preview") this.flush(); // what was typed comes first
      super.ask(asked);
    }

    held() {
      return this.editor.text;
    }

    question() {
      return { stamp: this.layers.stamp };
    }

    // --- showing ------------------------------------------------------------------------------------------------------------
    take(told, asked, sent) {
      this.revision = told.revision;
      for (const [name, html] of Object.entries(told.parts)) this.fill(name, html);
      this.have = { ...this.have, ...told.digests };
      if (this.editor.text === sent) {
        this.dirty = false;
        this.editor.set(told.text);
      }
      this.editor.mark(told.marks);
      this.layers.set(told.layers);
      this.buttons(told, asked);
      if (told.picked) quantui.send("recipe", told.picked);
      if (asked.action === "take" && !told.failed.length) this.open("paste", false);
      if (asked.action === "open" && !told.failed.length) this.open("gallery", false);
      this.root.dataset.ready = told.revision;
    }

    fill(name, html) {
      const slot = this.slot(name);
      const content = this.fresh(html);
      const { scrollTop } = slot;
      for (const fold of content.querySelectorAll("[data-fold]")) {
        if (slot.querySelector(`[data-fold="${fold.dataset.fold}"]`)?.open) fold.open = true;
      }
      if (name === "form" && this.shape(slot) === this.shape(content)) quantui.morph(slot, content);
      else if (name === "form") this.replace(slot, content);
      else slot.replaceChildren(content);
      slot.scrollTop = scrollTop;
      if (name === "form") this.values(slot);
    }

    // Fields that are the same ones keep their elements, and so the focus.
    shape(root) {
      return [...root.querySelectorAll("[data-field]")].map((input) => input.dataset.field).join();
    }

    replace(slot, content) {
      const field = slot.contains(document.activeElement) ? document.activeElement.dataset.field : null;
      slot.replaceChildren(content);
      if (field) slot.querySelector(`[data-field="${field}"]`)?.focus({ preventScroll: true });
    }

    buttons(told, asked) {
      for (const name of ["undo", "redo", "save"]) this.button(name).disabled = !told.can[name];
      const name = this.bench("name");
      if (this.base !== told.base || asked.action === "save") {
        if (!told.failed.includes("name")) name.value = told.name;
      }
      this.base = told.base;
    }

    open(name, wanted) {
      for (const sheet of this.root.querySelectorAll("[data-sheet]")) {
        const button = this.root.querySelector(`[data-open="${sheet.dataset.sheet}"]`);
        sheet.hidden = sheet.dataset.sheet !== name || !(wanted ?? sheet.hidden);
        button.setAttribute("aria-expanded", String(!sheet.hidden));
      }
      const shown = this.root.querySelector(`[data-sheet="${name}"]`);
      if (!shown.hidden) shown.querySelector("textarea")?.focus();
    }

    // --- doing --------------------------------------------------------------------------------------------------------------
    act(button) {
      const { do: action, path, group } = button.dataset;
      if (action === "use") quantui.show("quantize");
      else if (action === "save") this.ask({ action, name: this.bench("name").value });
      else if (action === "take") this.ask({ action, text: this.bench("paste").value });
      else this.ask({ action, path, group });
    }

    listen() {
      this.root.addEventListener("click", (event) => {
        const button = event.target.closest("[data-do], [data-open], [data-line]");
        if (!button || button.disabled) return;
        if (button.dataset.do) this.act(button);
        else if (button.dataset.open) this.open(button.dataset.open);
        else this.editor.show(Number(button.dataset.line));
      });
      this.root.addEventListener("change", (event) => {
        const input = event.target.closest("[data-field]");
        if (!input) return;
        const value = input.type === "checkbox" ? input.checked : input.value;
        this.ask({ action: "field", name: input.dataset.field, value: value === "" ? null : value });
      });
      this.root.addEventListener("keydown", (event) => this.key(event));
      let pause = null;
      this.bench("paste").addEventListener("input", () => {
        clearTimeout(pause);
        pause = setTimeout(() => this.ask({ action: "preview", text: this.bench("paste").value }), TYPING);
      });
      this.bench("name").addEventListener("keydown", (event) => {
        if (event.key === "Enter" && !this.button("save").disabled) this.button("save").click();
      });
      this.watchOthers("recipe");
    }

    key(event) {
      const meta = event.ctrlKey || event.metaKey;
      const own = event.target.closest("input[data-bench], textarea[data-bench], [data-layers='filter']"); // fields with an undo of their own
      if (event.key === "Enter" && event.target.matches("input[data-field]")) event.target.blur();
      if (!meta || own) return;
      const action = { z: event.shiftKey ? "redo" : "undo", y: "redo", s: "save" }[event.key.toLowerCase()];
      if (!action) return;
      event.preventDefault();
      const button = this.button(action);
      this.flush();
      if (action === "save" ? !button.disabled : true) this.act(button);
    }
  }

  return { start: quantuiLink.starter('[data-bench="root"]', Bench) };
})();
