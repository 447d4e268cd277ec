// Keeps the page true: asks the server what has changed, patches it in place, and turns clicks on data-act into actions.
window.quantui = (() => {
  const state = {
    run: "", after: 0, have: {}, slots: {}, runs: null, server: null, logs: new Map(), timer: null, asking: false, again: false,
    lost: 0, notify: () => {}, send: () => {},
  };

  // --- patching -----------------------------------------------------------------------------------------------------------
  // Makes `old` look like `fresh` while keeping its elements, so that hover, focus, selection and transitions survive.
  function morph(old, fresh) {
    const before = [...old.childNodes];
    const after = [...fresh.childNodes];
    after.forEach((node, i) => {
      const was = before[i];
      if (!was) old.append(node);
      else if (was.nodeType !== node.nodeType || was.nodeName !== node.nodeName) was.replaceWith(node);
      else if (node.nodeType === Node.TEXT_NODE) {
        if (was.data !== node.data) was.data = node.data;
      } else if (node.nodeType === Node.ELEMENT_NODE) {
        for (const { name } of [...was.attributes]) if (!node.hasAttribute(name)) was.removeAttribute(name);
        for (const { name, value } of node.attributes) if (was.getAttribute(name) !== value) was.setAttribute(name, value);
        morph(was, node);
      }
    });
    before.slice(after.length).forEach((node) => node.remove());
  }

  function patch(parts, digests) {
    for (const [name, html] of Object.entries(parts)) {
      const slots = document.querySelectorAll(`[data-live="${name}"]`);
      if (!slots.length) continue; // its tab is not built yet: asked for again
      const template = document.createElement("template");
      template.innerHTML = html;
      slots.forEach((slot) => morph(slot, template.content.cloneNode(true)));
      state.have[name] = digests[name];
      state.slots[name] = slots.length;
    }
  }

  // A tab is built when it is first opened: what it shows too has to be asked for again.
  function forgetGrown() {
    for (const name of Object.keys(state.have)) {
      if (document.querySelectorAll(`[data-live="${name}"]`).length > state.slots[name]) delete state.have[name];
    }
  }

  // --- asking -------------------------------------------------------------------------------------------------------------
  async function ask() {
    if (state.asking) {
      state.again = true;
      return;
    }
    clearTimeout(state.timer);
    state.asking = true;
    forgetGrown();
    const asked = { run: state.run, after: state.after, have: state.have };
    let wait = 1000;
    try {
      const told = await state.server.answer(asked);
      if (told === undefined) wait = await lost();
      else if (asked.run === state.run) wait = take(told);
      else state.again = true; // another run was opened meanwhile
    } catch (error) {
      console.warn(error);
      wait = await lost();
    }
    state.asking = false;
    if (state.again) wait = 0;
    state.again = false;
    state.timer = setTimeout(ask, document.hidden ? Math.max(wait, 2000) : wait);
  }

  function take(told) {
    document.documentElement.classList.remove("q-offline");
    state.lost = 0;
    if (!state.run && told.run) state.run = told.run; // the server chose
    patch(told.parts, told.digests);
    let wait = told.more ? 0 : told.wait;
    if (attachLogs() && state.after) {
      resetLogs(); // the new one has none of the lines yet
      wait = 0;
    } else if (state.logs.size && told.last > state.after) {
      const lines = JSON.parse(told.lines);
      for (const log of state.logs.values()) log.push(lines);
      state.after = told.last;
    }
    if (document.title !== told.title) document.title = told.title;
    if (state.runs !== told.runs) state.notify("runs", state.run);
    state.runs = told.runs;
    return wait;
  }

  // The server does not answer. When it is back but still knows nothing of this page, it has changed: start over.
  async function lost() {
    state.lost += 1;
    document.documentElement.classList.add("q-offline");
    if (state.lost > 2) {
      const alive = await fetch("gradio_api/app_id").then((r) => r.status < 500, () => false);
      if (alive) location.reload();
    }
    return Math.min(500 * state.lost, 3000);
  }

  // Every tab that follows a run may have a log of its own, all with the same lines; true where one is new.
  function attachLogs() {
    let grown = false;
    for (const root of document.querySelectorAll('[data-log="root"]')) {
      if (state.logs.has(root)) continue;
      state.logs.set(root, quantuiLog.attach(root));
      grown = true;
    }
    return grown;
  }

  function resetLogs() {
    state.after = 0;
    for (const log of state.logs.values()) log.reset();
  }

  // --- doing --------------------------------------------------------------------------------------------------------------
  function address(changes) {
    const query = new URLSearchParams(location.search);
    query.delete("__theme");
    query.delete("lang");
    for (const [key, value] of Object.entries(changes)) query.set(key, value);
    const text = query.toString();
    history.replaceState(history.state, "", location.pathname + (text ? `?${text}` : ""));
  }

  function open(run, tell = true) {
    if (!run) return;
    address({ run });
    if (run !== state.run) {
      state.run = run;
      resetLogs();
      if (tell) state.notify("opened", run);
    }
    ask();
  }

  // Opens a tab; while the page is being built its title may not be there yet.
  function show(tab, tries = 100) {
    const title = tab && document.querySelector(`[role=tab][data-tab-id="${CSS.escape(tab)}"]`);
    if (title) title.click();
    else if (tab && tries) setTimeout(() => show(tab, tries - 1), 20);
  }

  async function copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea"); // no clipboard access outside https and localhost
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.classList.add("did-copy");
    setTimeout(() => button.classList.remove("did-copy"), 1200);
  }

  const acts = {
    open: (button) => open(button.dataset.run),
    copy: (button) => copy(button.dataset.text, button),
    send(button) {
      show(button.dataset.tab);
      state.send(button.dataset.event, button.dataset.path);
      scrollTo({ top: 0 });
    },
    statistics(button) {
      address({ "st.table": button.dataset.table });
      show("statistics");
      scrollTo({ top: 0 });
    },
    help: () => document.querySelector('[data-dialog="help"]').showModal(),
    async cancel(button) {
      button.disabled = true;
      await state.server.cancel(button.dataset.run);
      button.disabled = false;
      ask();
    },
    async export(button) {
      button.disabled = true;
      const answer = await state.server.export({ run: button.dataset.run, format: button.dataset.format });
      button.disabled = false;
      if (answer.run) open(answer.run);
      else button.closest("[data-card]").querySelector("[data-export-note]").textContent = answer.problem;
    },
    theme() {
      const dark = document.body.classList.toggle("dark");
      quantuiPaint(dark);
      try { localStorage.setItem("quantui-theme", dark ? "dark" : "light"); } catch { /* storage may be forbidden */ }
    },
    language(link) {
      const query = new URLSearchParams(location.search);
      query.set("lang", link.dataset.lang);
      location.search = query.toString();
    },
  };

  document.addEventListener("click", (event) => {
    const target = event.target.closest?.("[data-act]");
    if (!target || !(target.dataset.act in acts)) return;
    event.preventDefault();
    acts[target.dataset.act](target);
  });
  // The second click of a double click would start the same job twice.
  document.addEventListener("click", (event) => {
    if (event.detail > 1 && event.target.closest?.("#run-button, #convert-button")) event.stopImmediatePropagation();
  }, true);
  document.addEventListener("click", (event) => {
    const tab = event.target.closest?.("[role=tab][data-tab-id]");
    if (!tab) return;
    address({ tab: tab.dataset.tabId });
    if (state.server) setTimeout(ask, 50); // what the tab shows too
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && state.server) ask();
  });

  // Called once by the page's monitor (shell.py): `trigger` and `props` reach the Python events, `server` its functions.
  function start(element, trigger, props, server, watch) {
    state.server = server;
    state.notify = (event, run) => {
      props.value = run;
      trigger(event, { run });
    };
    watch("value", () => open(props.value, false));
    const query = new URLSearchParams(location.search);
    const run = query.get("run") ?? "";
    show(query.get("tab") ?? "");
    address({});
    if (run) {
      state.run = run;
      state.notify("opened", run);
    }
    ask();
  }

  // Called once by the page's courier (shell.py): brings a path to the Python event of this name.
  function carry(trigger, props) {
    state.send = (event, path) => {
      props.value = path;
      trigger(event, { path });
    };
  }

  return { start, carry, open, copy, morph, show, send: (event, path) => state.send(event, path) };
})();
