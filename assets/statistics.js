// The Statistics tab: which table is shown, how one comes to be, and its views. What is looked at stands in the address, so that
// a link opens the same view. Its views are in statistics_overview.js and so on.
window.quantuiStatistics = (() => {
  const PREFIX = "st.";
  const REST = 250; // ms after a view is shown until the others are drawn
  const FALLBACK = { view: "overview" };

  class Bench {
    constructor(root, server, props) {
      this.root = root;
      this.server = server;
      this.props = props;
      this.model = null;
      this.kept = new Map(); // what was answered, by what was asked: a table does not change
      this.filled = new Map();
      this.set = this.address();
      this.views = {};
      for (const [name, View] of Object.entries(quantuiStatisticsViews)) {
        if (this.body(name)) this.views[name] = new View(this, this.body(name));
      }
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
      return this.root.querySelector(`[data-stats="${name}"]`);
    }

    body(name) {
      return this.root.querySelector(`[data-body="${name}"]`);
    }

    part(name) {
      return this.root.querySelector(`[data-part="${name}"]`);
    }

    // --- the address --------------------------------------------------------------------------------------------------------
    address() {
      const set = { ...FALLBACK };
      for (const [key, value] of new URLSearchParams(location.search)) if (key.startsWith(PREFIX)) set[key.slice(PREFIX.length)] = value;
      return set;
    }

    // Changing the address costs a frame, so the picture comes first.
    remember() {
      clearTimeout(this.writing);
      this.writing = setTimeout(() => this.write(), 120);
    }

    write() {
      if (!document.querySelector('[role=tab][data-tab-id="statistics"][aria-selected="true"]')) return; // another tab is open
      const query = new URLSearchParams(location.search);
      for (const key of [...query.keys()]) if (key.startsWith(PREFIX)) query.delete(key);
      for (const [key, value] of Object.entries(this.set)) {
        if (value !== undefined && value !== null && value !== "") query.set(PREFIX + key, value);
      }
      query.set("tab", "statistics");
      query.delete("__theme");
      query.delete("lang");
      history.replaceState(history.state, "", `${location.pathname}?${query}`);
    }

    // Changes what is looked at; undefined takes something back.
    change(set) {
      Object.assign(this.set, set);
      this.remember();
    }

    // The options of a chart whose part that is looked at closer is kept in the address.
    zoom(chart) {
      return { seen: quantuiCharts.seen(this.set[chart]), zoom: (seen) => this.change({ [chart]: seen?.join("_") }) };
    }

    // --- asking -------------------------------------------------------------------------------------------------------------
    async ask(asked) {
      try {
        return await this.server.answer({ ...this.picked, table: this.set.table ?? "", ...asked });
      } catch (error) {
        console.warn(error); // the page's monitor says that the server is away
        return undefined;
      }
    }

    key(asked) {
      return JSON.stringify([this.set.table, this.made, asked]);
    }

    // The same for what a table always answers alike.
    read(asked) {
      const key = this.key(asked);
      if (!this.kept.has(key)) {
        const told = this.ask(asked);
        this.kept.set(key, told);
        told.then((answer) => (!answer || answer.problem) && this.kept.delete(key));
        if (this.kept.size > 60) this.kept.delete(this.kept.keys().next().value);
      }
      return this.kept.get(key);
    }

    async look() {
      const { model } = this.picked;
      // Another model in the rail shows its own newest table, not what was looked at before.
      const table = this.model !== null && this.model !== model ? "" : this.set.table ?? "";
      const run = this.model === null && !table ? new URLSearchParams(location.search).get("run") : "";
      this.model = model;
      const told = await this.ask({ action: "look", table, run });
      if (!told) return;
      if (told.problem) return this.say(told.problem);
      this.fill(told.parts);
      const select = this.find("table");
      select.replaceChildren(...told.tables.map(([value, text]) => new Option(text, value)));
      select.value = told.table;
      this.models = new Map(told.tables.map(([value, , model]) => [value, model]));
      select.closest(".stats-table").hidden = !told.tables.length;
      this.root.classList.toggle("stats-empty", !told.table);
      const same = told.table === this.set.table && told.made === this.made;
      if (told.table !== this.set.table && this.set.table) this.forget();
      this.made = told.made;
      this.set.table = told.table || undefined;
      this.root.dataset.ready = told.table;
      if (told.table && !(same && this.shown)) await this.show();
      if (!told.table) this.uncover("");
      this.cost();
    }

    async cost() {
      const told = await this.ask({ action: "cost", detail: this.find("detail").checked });
      if (!told?.parts) return;
      this.fill(told.parts);
      this.root.querySelector('[data-do="collect"]').disabled = !told.can;
    }

    // Another table: nothing that was picked in the old one holds.
    forget() {
      for (const key of Object.keys(this.set)) if (!["view", "table", "log", "role", "kbits", "vbits", "batch", "context"].includes(key)) delete this.set[key];
      this.shown = null;
    }

    fill(parts = {}) {
      for (const [name, html] of Object.entries(parts)) {
        const slot = this.part(name);
        if (!slot) continue;
        const template = document.createElement("template");
        template.innerHTML = html;
        slot.replaceChildren(template.content);
      }
    }

    say(html) {
      this.fill({ message: html });
    }

    // Sets a list to a value of the address, which may be none of its options. Setting it, be it to what it holds, has Chromium lay
    // out the hidden views too, in search of forms to fill in.
    hold(select, value, otherwise = select.options[0].value) {
      const known = [...select.options].some((option) => option.value === value) ? value : otherwise;
      if (select.value !== known) select.value = known;
    }

    // --- showing ------------------------------------------------------------------------------------------------------------
    uncover(name) {
      for (const body of this.root.querySelectorAll("[data-body]")) body.classList.toggle("away", body.dataset.body !== name);
    }

    async show() {
      const name = Object.hasOwn(this.views, this.set.view) ? this.set.view : FALLBACK.view;
      this.uncover(name);
      for (const button of this.root.querySelectorAll("[data-view]")) button.setAttribute("aria-selected", button.dataset.view === name);
      this.shown = name;
      this.remember();
      const began = performance.now();
      const turn = (this.turn = (this.turn ?? 0) + 1);
      await this.views[name].show();
      if (turn !== this.turn) return; // another view was opened meanwhile
      this.root.dataset.shown = name;
      performance.mark(`statistics ${name}`); // what bench/stats_page.py waits for
      this.root.dataset.took = Math.round(performance.now() - began);
      clearTimeout(this.resting);
      this.resting = setTimeout(() => requestIdleCallback(() => this.ahead()), REST);
    }

    // The other views are drawn while nobody waits, so that a click only has to show them.
    async ahead() {
      this.views[this.shown].neighbours?.();
      for (const name of ["layer", "cache"]) if (name !== this.shown && this.root.offsetParent) await this.views[name].show(true);
    }

    // Answers of a view: what went wrong is said above it. What it shows already is left as it is.
    took(told, view = "", ahead = false) {
      if (!told || (ahead && told.problem)) return false;
      if (!ahead && (told.problem || this.part("message").firstChild)) this.fill({ message: told.problem ?? "" });
      if (!told.problem && told !== this.filled.get(view)) this.fill(told.parts);
      this.filled.set(view, told);
      if (view) this.body(view).classList.toggle("stats-nothing", Boolean(told.problem));
      return !told.problem;
    }

    open(layer, channel) {
      if (!this.views.layer) return;
      this.change({ ...(layer === this.set.layer ? {} : quantuiStatisticsViews.layer.whole), view: "layer", layer, channel });
      this.show();
    }

    async collect() {
      const button = this.root.querySelector('[data-do="collect"]');
      button.disabled = true; // a second click would start the same job twice
      const told = await this.ask({ action: "collect", detail: this.find("detail").checked, skip: this.find("skip").checked });
      this.root.classList.toggle("stats-follow", Boolean(told?.run));
      if (told?.run) quantui.open(told.run);
      else if (told?.problem) this.say(told.problem);
      this.set.table = undefined; // what the job makes is shown when it is there
      this.look();
    }

    listen() {
      this.root.addEventListener("click", (event) => {
        const view = event.target.closest("[data-view]");
        if (view) {
          this.change({ view: view.dataset.view });
          this.show();
        }
        if (event.target.closest('[data-do="collect"]:not(:disabled)')) this.collect();
        const save = event.target.closest("[data-rows]");
        if (save) this.save(save.closest(".panel").querySelector("table"));
      });
      this.find("table").addEventListener("change", (event) => {
        this.forget();
        this.set.table = event.target.value;
        this.look();
      });
      this.find("detail").addEventListener("change", () => this.cost());
      this.root.addEventListener("pointerover", (event) => {
        const view = event.target.closest("[data-view]");
        const row = event.target.closest("tr[data-layer]");
        if (view && this.set.table) this.views[view.dataset.view]?.fetch?.();
        else if (row && this.set.table) this.views.layer.fetch(row.dataset);
      });
      document.addEventListener("click", (event) => {
        const tab = event.target.closest?.("[role=tab][data-tab-id]");
        if (!tab) return;
        const { table } = this.address(); // another one where a run's card led here
        if (tab.dataset.tabId === "statistics" && table && table !== this.set.table) {
          this.forget();
          this.set.table = table;
        }
        if (tab.dataset.tabId === "statistics") setTimeout(() => this.look().then(() => this.remember()), 30);
        else this.clean();
      });
    }

    // The rows of a list that are shown, with the whole names of their layers.
    save(table) {
      const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
      const named = rows.some((row) => row.dataset.layer);
      const texts = (row) => [...row.cells].map((cell) => cell.textContent.replace(/(?<=\d)×$/, ""));
      const columns = [...(named ? ["name"] : []), ...texts(table.tHead.rows[0])];
      const text = quantuiCharts.csv({ columns, rows: rows.map((row) => [...(named ? [row.title.replaceAll("\n", " ")] : []), ...texts(row)]) });
      quantuiCharts.save(text, `${this.find("table").selectedOptions[0].text.split(" ")[0]}-${table.closest("[data-body]").dataset.body}.csv`);
    }

    // The address of another tab says nothing of this one.
    clean() {
      const query = new URLSearchParams(location.search);
      for (const key of [...query.keys()]) if (key.startsWith(PREFIX)) query.delete(key);
      history.replaceState(history.state, "", `${location.pathname}?${query}`);
    }
  }

  // Called once by the tab's link (tabs/statistics.py), which may be there before the frame is.
  function start(props, server, watch) {
    let bench = null;
    quantuiCharts.load().catch(console.warn); // while the first answer is on its way
    const attach = () => {
      const root = document.querySelector('[data-stats="root"]');
      if (root && props.value) bench = new Bench(root, server, props);
      else setTimeout(attach, 30);
    };
    watch("value", () => bench?.look());
    attach();
  }

  return { start };
})();
