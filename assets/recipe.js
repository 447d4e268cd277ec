// The Recipe tab: brings every edit to the server, one at a time, and shows what came of it in the form, the text and the table.
window.quantuiRecipe = (() => {
  const TYPING = 120; // ms without a key before typed text is sent

  class Bench {
    constructor(root, server, props) {
      this.root = root;
      this.server = server;
      this.props = props;
      this.revision = 0;
      this.have = {};
      this.base = null;
      this.queue = [];
      this.busy = false;
      this.timer = null;
      this.bench = (name) => root.querySelector(`[data-bench="${name}"]`);
      this.editor = quantuiYaml.attach(root.querySelector('[data-yaml="root"]'), () => this.typed());
      this.layers = quantuiLayers.attach(root.querySelector('[data-layers="root"]'), (asked) => this.ask(asked));
      this.listen();
      this.ask({ action: "look" });
    }

    get picked() {
      try {
        return JSON.parse(this.props.value || "{}");
      } catch {
        return {};
      }
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
      this.queue.push(asked);
      this.next();
    }

    async next() {
      if (this.busy || !this.queue.length) return;
      this.busy = true;
      const asked = this.queue.shift();
      const sent = this.editor.text;
      try {
        const told = await this.server.answer({
          ...this.picked, ...asked, revision: this.revision, have: this.have, stamp: this.layers.stamp,
        });
        if (told) this.take(told, asked, sent);
      } catch (error) {
        console.warn(error); // the page's monitor says that the server is away
      }
      this.busy = false;
      this.next();
    }

    // --- showing ------------------------------------------------------------------------------------------------------------
    take(told, asked, sent) {
      this.revision = told.revision;
      for (const [name, html] of Object.entries(told.parts)) this.fill(name, html, asked);
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

    fill(name, html, asked) {
      const slot = this.root.querySelector(`[data-part="${name}"]`);
      const template = document.createElement("template");
      template.innerHTML = html;
      const { scrollTop } = slot;
      if (name === "form" && this.shape(slot) === this.shape(template.content)) quantui.morph(slot, template.content);
      else if (name === "form") this.replace(slot, template.content);
      else slot.replaceChildren(template.content);
      slot.scrollTop = scrollTop;
      if (name === "form") this.values(slot, asked);
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

    // A control holds what the recipe says, not what attribute it was made with.
    values(slot) {
      for (const input of slot.querySelectorAll("[data-field]")) {
        if (input.type === "checkbox") input.checked = input.dataset.value === "true";
        else if (input.value !== input.dataset.value) input.value = input.dataset.value;
      }
    }

    buttons(told, asked) {
      const button = (name) => this.root.querySelector(`[data-do="${name}"]`);
      button("undo").disabled = !told.can.undo;
      button("redo").disabled = !told.can.redo;
      button("save").disabled = !told.can.save;
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
        const save = this.root.querySelector('[data-do="save"]');
        if (event.key === "Enter" && !save.disabled) save.click();
      });
      // Another browser may have gone on meanwhile.
      addEventListener("focus", () => this.root.offsetParent && this.ask({ action: "look" }));
      document.addEventListener("click", (event) => {
        if (event.target.closest?.('[role=tab][data-tab-id="recipe"]')) this.ask({ action: "look" });
      });
    }

    key(event) {
      const meta = event.ctrlKey || event.metaKey;
      const own = event.target.closest("input[data-bench], textarea[data-bench], [data-layers='filter']"); // fields with an undo of their own
      if (event.key === "Enter" && event.target.matches("input[data-field]")) event.target.blur();
      if (!meta || own) return;
      const action = { z: event.shiftKey ? "redo" : "undo", y: "redo", s: "save" }[event.key.toLowerCase()];
      if (!action) return;
      event.preventDefault();
      const button = this.root.querySelector(`[data-do="${action}"]`);
      this.flush();
      if (action === "save" ? !button.disabled : true) this.act(button);
    }
  }

  // Called once by the tab's link (tabs/recipe.py), which may be there before the frame is.
  function start(props, server, watch) {
    let bench = null;
    const attach = () => {
      const root = document.querySelector('[data-bench="root"]');
      if (root && props.value) bench = new Bench(root, server, props);
      else setTimeout(attach, 30);
    };
    watch("value", () => bench?.ask({ action: "look" }));
    attach();
  }

  return { start };
})();
