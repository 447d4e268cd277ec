// The Calibration tab: brings every change to the server, shows the first samples at once and the numbers of the set when counted.
window.quantuiCalibration = (() => {
  class Bench extends quantuiLink.Link {
    constructor(root, server, props) {
      super(root, server, props);
      this.shown = 20;
      this.editing = null;
      this.source = null; // the source that is being added or changed: kind, at, and where a file for it is looked for
      this.file = null;
      this.asked = 0; // number of the last question for the facts
      this.named = null; // the name that was proposed last
      this.listen();
      this.look();
    }

    find(name) {
      return this.root.querySelector(`[data-cal="${name}"]`);
    }

    // --- asking -------------------------------------------------------------------------------------------------------------
    look() {
      const { model, calibration } = this.picked;
      if (this.file !== `${model}\n${calibration}`) {
        this.file = `${model}\n${calibration}`;
        // The rail tells of a model and of its calibration one after the other: only other samples start at 20 again.
        if (this.calibration !== calibration) {
          this.shown = 20;
          this.source = null;
        }
        this.calibration = calibration;
        this.editing = null;
        this.named = null;
      }
      super.look();
    }

    question() {
      return {
        part: "samples", shown: this.shown, boundaries: this.find("boundaries").checked, editing: this.editing,
        source: this.source && { ...this.source, typed: this.typed() },
      };
    }

    // What stands in the form of a source, which is in the draft only once it is applied.
    typed() {
      const form = this.root.querySelector(".source-form");
      const typed = {};
      if (form?.dataset.kind !== this.source.kind || form.dataset.at !== String(this.source.at ?? "")) return typed;
      for (const input of form.querySelectorAll("[data-option]")) {
        typed[input.dataset.option] = input.type === "checkbox" ? String(input.checked) : input.value;
      }
      return typed;
    }

    // The numbers of the whole set take longer; what was asked before the last change is of no use any more.
    async count() {
      const asked = ++this.asked;
      this.root.classList.add("counting-now");
      try {
        const told = await this.server.answer({ ...this.picked, part: "facts", revision: this.revision, have: this.have });
        if (asked !== this.asked) return;
        if (told) this.fill(told);
      } catch (error) {
        console.warn(error);
      }
      if (asked !== this.asked) return;
      this.root.classList.remove("counting-now");
      this.root.dataset.counted = this.revision;
    }

    // --- showing ------------------------------------------------------------------------------------------------------------
    take(told, asked) {
      const editing = this.editing;
      this.revision = told.revision;
      if (asked.action === "source-take" && !told.failed.includes("source")) this.source = null;
      this.fill(told);
      for (const name of ["undo", "revert", "save"]) this.button(name).disabled = !told.can[name];
      this.button("more").hidden = !told.more;
      const name = this.find("name");
      if (!told.failed.includes("name") && (this.named === null || name.value === this.named || asked.action === "save")) name.value = told.name;
      this.named = told.name;
      if (asked.action === "words" && editing !== null) this.root.querySelector(".sample-editor textarea")?.focus();
      if (asked.action === "form") this.reveal(asked.opened);
      this.root.dataset.ready = told.revision;
      if (told.picked) quantui.send("calibration", told.picked);
      else if (!["more", "words", "boundaries", "form"].includes(asked.action)) this.count();
    }

    fill(told) {
      for (const [name, html] of Object.entries(told.parts)) {
        const slot = this.slot(name);
        if (name === "facts") slot.replaceChildren(this.fresh(html));
        else quantui.morph(slot, this.fresh(html));
        if (name === "form") this.values(slot);
      }
      this.have = { ...this.have, ...told.digests };
    }

    // Elements are kept from one form to the next, so what they hold has to be set; but not under the hands of who types there.
    values(slot) {
      super.values(slot);
      for (const input of slot.querySelectorAll("[data-option]")) {
        if (input === document.activeElement) continue;
        if (input.type === "checkbox") input.checked = input.defaultChecked;
        else if (input.tagName === "SELECT") input.value = input.querySelector("[selected]")?.value ?? "";
        else input.value = input.defaultValue;
      }
      const adder = this.find("add");
      if (adder) adder.value = "";
    }

    // The form of a source is seen, and where it has just been opened, typed into.
    reveal(opened) {
      const form = this.root.querySelector(".source-form");
      if (opened) form?.querySelector("[data-option]")?.focus({ preventScroll: true });
      const panel = form?.closest(".panel");
      const part = form?.querySelector(".browse") ?? form;
      if (part) panel.scrollTop += part.getBoundingClientRect().top - panel.getBoundingClientRect().top - 80;
    }

    // --- doing --------------------------------------------------------------------------------------------------------------
    act(button) {
      const { do: action, at } = button.dataset;
      const place = at === undefined ? undefined : Number(at);
      if (action.startsWith("source-")) this.change(action, place, button.dataset);
      else if (action === "use") quantui.show("quantize");
      else if (action === "save") this.ask({ action, name: this.find("name").value });
      else if (action === "more") {
        this.shown += 20;
        this.ask({ action });
      } else if (action === "edit" || action === "leave") {
        this.editing = action === "leave" || this.editing === place ? null : place;
        delete this.have.list;
        this.ask({ action: "words" });
      } else if (action === "take") this.words(place);
      else {
        this.editing = null;
        this.ask({ action, at: place });
      }
    }

    // A source: its form is opened, looked for a file for, left or applied; or it is moved or taken out.
    change(action, at, { kind, name, path }) {
      if (action === "source-edit") return this.open(this.source?.at === at ? null : { kind, at });
      if (action === "source-leave") return this.open(null);
      if (action === "source-browse") {
        const again = this.source.browsing === name;
        this.source = { ...this.source, browsing: again ? "" : name, folder: null };
        return this.ask({ action: "form" });
      }
      if (action === "source-enter") {
        this.source = { ...this.source, folder: path };
        return this.ask({ action: "form" });
      }
      if (action === "source-pick") {
        this.root.querySelector(`.source-form [data-option="${this.source.browsing}"]`).value = path;
        this.source = { ...this.source, browsing: "" };
        return this.ask({ action: "form" });
      }
      this.editing = null;
      if (action !== "source-take") this.source = null;
      this.ask({ action, at });
    }

    open(source) {
      this.source = source;
      this.ask({ action: "form", opened: true });
    }

    words(at) {
      const areas = [...this.root.querySelectorAll(".sample-editor textarea")];
      const messages = areas.map((area) => ({ role: area.dataset.role, content: area.value }));
      const text = areas[0].dataset.role ? null : areas[0].value;
      this.editing = null;
      this.ask({ action: "take", at, ...(text === null ? { messages } : { text }) });
    }

    // What is pointed at in the chart, its table or the list of samples is marked in the others.
    point(target) {
      const bar = target?.closest("[data-begin]");
      const card = target?.closest("[data-tokens]");
      const { language } = target?.closest(".shares [data-language]")?.dataset ?? {};
      const within = (one, tokens) => tokens >= Number(one.dataset.begin) && tokens < Number(one.dataset.end);
      for (const each of this.root.querySelectorAll("[data-begin]")) {
        const pointed = bar ? each.dataset.begin === bar.dataset.begin : card && within(each, Number(card.dataset.tokens));
        each.classList.toggle("pointed", Boolean(pointed));
      }
      for (const each of this.root.querySelectorAll("[data-tokens]")) {
        const pointed = (bar && within(bar, Number(each.dataset.tokens))) || (language && each.dataset.language === language);
        each.classList.toggle("pointed", Boolean(pointed));
      }
      for (const each of this.root.querySelectorAll(".shares [data-language]")) {
        each.classList.toggle("pointed", each.dataset.language === (language ?? card?.dataset.language));
      }
    }

    listen() {
      this.root.addEventListener("click", (event) => {
        const button = event.target.closest("[data-do]");
        if (button && !button.disabled) this.act(button);
        if (event.target.closest("rect[data-begin]")) this.root.querySelector(".lengths details").open = true;
      });
      this.root.addEventListener("change", (event) => {
        const input = event.target.closest("[data-field], [data-cal='boundaries'], [data-cal='add']");
        if (!input) return;
        if (input.dataset.cal === "add") return input.value && this.open({ kind: input.value, at: null });
        if (input.dataset.cal) return this.ask({ action: "boundaries" });
        const value = input.type === "checkbox" ? input.checked : input.value;
        if (String(value) !== input.dataset.value) this.ask({ action: "field", name: input.dataset.field, value });
      });
      this.root.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && event.target.matches("input[data-field]")) event.target.blur();
        if (event.key === "Enter" && event.target === this.find("name")) this.button("save").click();
        if (event.key === "Enter" && event.target.matches("input[data-option]")) this.button("source-take").click();
      });
      this.root.addEventListener("mouseover", (event) => this.point(event.target));
      this.root.addEventListener("mouseleave", () => this.point(null));
      this.watchOthers("calibration");
    }
  }

  return { start: quantuiLink.starter('[data-cal="root"]', Bench) };
})();
