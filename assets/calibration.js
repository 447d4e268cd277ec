// The Calibration tab: brings every change to the server, shows the first samples at once and the numbers of the set when counted.
window.quantuiCalibration = (() => {
  class Bench {
    constructor(root, server, props) {
      this.root = root;
      this.server = server;
      this.props = props;
      this.revision = 0;
      this.have = {};
      this.queue = [];
      this.busy = false;
      this.shown = 20;
      this.editing = null;
      this.file = null;
      this.asked = 0; // number of the last question for the facts
      this.named = null; // the name that was proposed last
      this.listen();
      this.look();
    }

    get picked() {
      try {
        return JSON.parse(this.props.value || "{}");
      } catch {
        return {};
      }
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
        if (this.calibration !== calibration) this.shown = 20;
        this.calibration = calibration;
        this.editing = null;
        this.named = null;
      }
      this.ask({ action: "look" });
    }

    ask(asked) {
      this.queue.push(asked);
      this.next();
    }

    async next() {
      if (this.busy || !this.queue.length) return;
      this.busy = true;
      const asked = this.queue.shift();
      try {
        const told = await this.server.answer({
          ...this.picked, ...asked, part: "samples", revision: this.revision, have: this.have, shown: this.shown,
          boundaries: this.find("boundaries").checked, editing: this.editing,
        });
        if (told) this.take(told, asked);
      } catch (error) {
        console.warn(error); // the page's monitor says that the server is away
      }
      this.busy = false;
      this.next();
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
      this.fill(told);
      for (const name of ["undo", "revert", "save"]) this.root.querySelector(`[data-do="${name}"]`).disabled = !told.can[name];
      this.root.querySelector('[data-do="more"]').hidden = !told.more;
      const name = this.find("name");
      if (!told.failed.includes("name") && (this.named === null || name.value === this.named || asked.action === "save")) name.value = told.name;
      this.named = told.name;
      if (asked.action === "words" && editing !== null) this.root.querySelector(".sample-editor textarea")?.focus();
      this.root.dataset.ready = told.revision;
      if (told.picked) quantui.send("calibration", told.picked);
      else if (!["more", "words", "boundaries"].includes(asked.action)) this.count();
    }

    fill(told) {
      for (const [name, html] of Object.entries(told.parts)) {
        const slot = this.root.querySelector(`[data-part="${name}"]`);
        const template = document.createElement("template");
        template.innerHTML = html;
        if (name === "facts") slot.replaceChildren(template.content);
        else quantui.morph(slot, template.content);
        if (name === "form") this.values(slot);
      }
      this.have = { ...this.have, ...told.digests };
    }

    // A control holds what the file says, not what attribute it was made with.
    values(slot) {
      for (const input of slot.querySelectorAll("[data-field]")) {
        if (input.type === "checkbox") input.checked = input.dataset.value === "true";
        else if (input.value !== input.dataset.value) input.value = input.dataset.value;
      }
    }

    // --- doing --------------------------------------------------------------------------------------------------------------
    act(button) {
      const { do: action, at } = button.dataset;
      const place = at === undefined ? undefined : Number(at);
      if (action === "use") quantui.show("quantize");
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

    words(at) {
      const areas = [...this.root.querySelectorAll(".sample-editor textarea")];
      const messages = areas.map((area) => ({ role: area.dataset.role, content: area.value }));
      const text = areas[0].dataset.role ? null : areas[0].value;
      this.editing = null;
      this.ask({ action: "take", at, ...(text === null ? { messages } : { text }) });
    }

    listen() {
      this.root.addEventListener("click", (event) => {
        const button = event.target.closest("[data-do]");
        if (button && !button.disabled) this.act(button);
      });
      this.root.addEventListener("change", (event) => {
        const input = event.target.closest("[data-field], [data-cal='boundaries']");
        if (!input) return;
        if (input.dataset.cal) return this.ask({ action: "boundaries" });
        const value = input.type === "checkbox" ? input.checked : input.value;
        if (String(value) !== input.dataset.value) this.ask({ action: "field", name: input.dataset.field, value });
      });
      this.root.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && event.target.matches("input[data-field]")) event.target.blur();
        if (event.key === "Enter" && event.target === this.find("name")) this.root.querySelector('[data-do="save"]').click();
      });
      // Another browser may have gone on meanwhile.
      addEventListener("focus", () => this.root.offsetParent && this.look());
      document.addEventListener("click", (event) => {
        if (event.target.closest?.('[role=tab][data-tab-id="calibration"]')) this.look();
      });
    }
  }

  // Called once by the tab's link (tabs/calibration.py), which may be there before the frame is.
  function start(props, server, watch) {
    let bench = null;
    const attach = () => {
      const root = document.querySelector('[data-cal="root"]');
      if (root && props.value) bench = new Bench(root, server, props);
      else setTimeout(attach, 30);
    };
    watch("value", () => bench?.look());
    attach();
  }

  return { start };
})();
