// What the scripts of tabs share that draw their parts themselves (see quantui/ui/linked.py): one question after the other, in the
// order of the edits, and controls that hold what the server says.
window.quantuiLink = (() => {
  class Link {
    constructor(root, server, props) {
      this.root = root;
      this.server = server;
      this.props = props;
      this.revision = 0;
      this.have = {};
      this.queue = [];
      this.busy = false;
    }

    // What the rail has picked.
    get picked() {
      try {
        return JSON.parse(this.props.value || "{}");
      } catch {
        return {};
      }
    }

    slot(name) {
      return this.root.querySelector(`[data-part="${name}"]`);
    }

    button(name) {
      return this.root.querySelector(`[data-do="${name}"]`);
    }

    // --- asking: a tab adds `question()`, what it asks beside the action, and `take(told, asked, held)` ----------------------
    ask(asked) {
      this.queue.push(asked);
      this.next();
    }

    look() {
      this.ask({ action: "look" });
    }

    async next() {
      if (this.busy || !this.queue.length) return;
      this.busy = true;
      const asked = this.queue.shift();
      const held = this.held?.(); // what the tab holds as the question is sent
      try {
        const told = await this.server.answer({ ...this.picked, ...asked, revision: this.revision, have: this.have, ...this.question(asked) });
        if (told) this.take(told, asked, held);
      } catch (error) {
        console.warn(error); // the page's monitor says that the server is away
      }
      this.busy = false;
      this.next();
    }

    // --- showing ------------------------------------------------------------------------------------------------------------
    fresh(html) {
      const template = document.createElement("template");
      template.innerHTML = html;
      return template.content;
    }

    // A control holds what the server says, not what attribute it was made with.
    values(slot) {
      for (const input of slot.querySelectorAll("[data-field]")) {
        if (input.type === "checkbox") input.checked = input.dataset.value === "true";
        else if (input.value !== input.dataset.value) input.value = input.dataset.value;
      }
    }

    // Another browser may have gone on meanwhile.
    watchOthers(tab) {
      addEventListener("focus", () => this.root.offsetParent && this.look());
      document.addEventListener("click", (event) => {
        if (event.target.closest?.(`[role=tab][data-tab-id="${tab}"]`)) this.look();
      });
    }
  }

  // Called once by a tab's link, which may be there before the frame is: `start` of the tab's script.
  function starter(selector, Kind) {
    return (props, server, watch) => {
      let link = null;
      const attach = () => {
        const root = document.querySelector(selector);
        if (root && props.value) link = new Kind(root, server, props);
        else setTimeout(attach, 30);
      };
      watch("value", () => link?.look());
      attach();
    };
  }

  return { Link, starter };
})();
