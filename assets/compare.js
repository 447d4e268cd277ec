// The Compare tab: two chats side by side. The browser keeps the conversation and sends all of it with every message; words come by
// asking for news again and again. Every text of a model or a person goes into the page as text, never as HTML.
window.quantuiCompare = (() => {
  const SIDES = ["original", "quantized"];
  const LEVELS = [0.001, 0.01, 0.05, 0.2, 1, 3]; // nats; a token's level is how many of them it reaches
  const KINDS = ["q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down", "router", "other", "head", "kv"];
  const LONG = 4000;

  const level = (value) => LEVELS.filter((limit) => Math.abs(value) >= limit).length;
  const nats = (value) => (value === 0 ? "0" : Math.abs(value) < 0.001 ? value.toExponential(0) : value.toFixed(Math.abs(value) < 0.1 ? 3 : 2));
  const bytes = (n) => (n < 1e6 ? `${(n / 1e3).toFixed(0)} kB` : n < 1e9 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e9).toFixed(1)} GB`);
  const other = (side) => SIDES[1 - SIDES.indexOf(side)];

  // Control characters and marks that turn the direction of text are shown, not obeyed.
  function visible(text) {
    return text
      .replace(/[\u0000-\u0008\u000b-\u001f\u007f]/g, (c) => String.fromCharCode(c === "\u007f" ? 0x2421 : 0x2400 + c.charCodeAt(0)))
      .replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => `⟦U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟧`);
  }

  function make(name, cls, text) {
    const node = document.createElement(name);
    if (cls) node.className = cls;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  class Bench extends quantuiLink.Link {
    constructor(root, server, props) {
      super(root, server, props);
      this.words = JSON.parse(root.dataset.words);
      this.client = this.remembered("client") ?? Math.random().toString(36).slice(2);
      this.turns = this.remembered("turns") ?? [];
      this.switches = this.remembered("switches") ?? { weights: true, activations: true, kv: true, original: [] };
      this.layers = [];
      this.models = {};
      this.chosen = this.remembered("chosen") ?? {};
      this.view = this.remembered("view") ?? { colour: "kl", numbers: false, blind: false };
      this.busy_with = null;
      this.picture = null;
      this.order = SIDES;
      this.tip = document.body.appendChild(make("div", "token-tip"));
      this.tip.hidden = true;
      this.listen();
      this.remember();
      this.setView();
      for (const turn of this.turns) this.drawTurn(turn);
      this.look();
      this.watchOthers("compare");
    }

    // Another run in the rail is another pair; what was chosen by hand holds until then.
    question() {
      const { run } = this.picked;
      if (this.railRun !== undefined && run !== this.railRun) this.chosen = {};
      this.railRun = run;
      return { ...this.chosen };
    }

    // --- what the browser keeps ---------------------------------------------------------------------------------------------
    remembered(name) {
      try {
        return JSON.parse(sessionStorage.getItem(`quantui-compare-${name}`)) ?? undefined;
      } catch {
        return undefined;
      }
    }

    remember() {
      const kept = { client: this.client, turns: this.turns.map(({ node, ...turn }) => turn), switches: this.switches, chosen: this.chosen, view: this.view };
      for (const [name, value] of Object.entries(kept)) {
        try {
          sessionStorage.setItem(`quantui-compare-${name}`, JSON.stringify(value));
        } catch { /* too long a conversation, or storage is forbidden: a reload forgets it */ }
      }
    }

    say(name, values = {}) {
      return this.words[name].replace(/{(\w+)}/g, (_, key) => values[key] ?? "");
    }

    part(name) {
      return this.root.querySelector(`[data-compare="${name}"]`);
    }

    tell(name, text) {
      const slot = this.root.querySelector(`[data-told="${name}"]`);
      if (slot) slot.textContent = text;
      return slot;
    }

    // --- the models ---------------------------------------------------------------------------------------------------------
    take(told) {
      if (told.problem) return this.complain(told.problem);
      for (const [name, html] of Object.entries(told.parts)) {
        const slot = this.slot(name);
        if (!slot) continue;
        const picked = slot.querySelector('[data-compare="data"]')?.value;
        quantui.morph(slot, this.fresh(html));
        const data = slot.querySelector('[data-compare="data"]');
        if (data && picked && [...data.options].some((option) => option.value === picked)) data.value = picked;
        for (const select of slot.querySelectorAll("[data-model]")) select.value = select.dataset.value;
      }
      this.have = { ...this.have, ...told.digests };
      const changed = told.original !== this.models.original || told.quantized !== this.models.quantized;
      this.models = { original: told.original, quantized: told.quantized };
      this.root.querySelector('[data-told="attach"]').hidden = !told.pictures;
      this.root.dataset.ready = told.ready;
      this.root.dataset.pair = `${told.original}|${told.quantized}`;
      if (changed) {
        this.layers = [];
        this.drawLayers();
        this.status(this.words.not_loaded);
      }
      this.setBusy();
      clearTimeout(this.watching);
      if (told.measuring) this.watching = setTimeout(() => this.look(), 1500);
    }

    status(text) {
      this.state = text;
      this.tell("state", text);
    }

    about(event) {
      this.layers = event.layers;
      this.folded = event.folded;
      const { original, quantized, shared } = event.memory;
      this.sizes = {
        original: this.say("memory", { n: bytes(original) }),
        quantized: this.say("shared", { n: bytes(quantized + shared), shared: bytes(shared) }),
      };
      this.status(event.device);
      this.head();
      this.drawLayers();
    }

    head(speeds = this.speeds ?? {}) {
      this.speeds = speeds;
      this.root.classList.toggle("blind", this.isHidden());
      for (const side of SIDES) {
        const parts = [speeds[side] ? this.say("speed", { n: speeds[side].toFixed(0) }) : "", this.sizes?.[side] ?? ""];
        const text = this.isHidden() ? "" : parts.filter(Boolean).join(" · ");
        this.tell(side, text).title = text; // where there is no room for all of it
      }
    }

    // --- asking -------------------------------------------------------------------------------------------------------------
    async send(text, { picture = this.picture, keep = false } = {}) {
      if (this.busy_with || !text.trim() || this.root.dataset.ready !== "true") return;
      const turn = { text, picture: this.turns.length ? null : picture, answers: {}, order: Math.random() < 0.5 ? [0, 1] : [1, 0], blind: this.view.blind };
      this.turns.push(turn);
      this.drawTurn(turn);
      if (!keep) {
        this.part("message").value = "";
        this.attach(null);
      }
      await this.run(turn, { do: "ask", sides: SIDES });
    }

    // Everything said before a turn, as one model heard it: each goes on with its own answers.
    history(turn, side) {
      const messages = [];
      for (const before of this.turns) {
        messages.push({ role: "user", content: before.text });
        if (before === turn) break;
        messages.push({ role: "assistant", content: before.answers[side]?.text ?? "" });
      }
      return messages;
    }

    settings() {
      const sampling = {};
      for (const input of this.root.querySelectorAll("[data-setting]")) sampling[input.dataset.setting] = input.value.trim();
      return { sampling, system: this.part("system").value };
    }

    async run(turn, { do: action, sides, given }) {
      this.complain(null);
      this.busy_with = { turn, request: null, stop: false, phase: "", since: 0 };
      const clock = setInterval(() => this.tick(), 1000);
      this.setBusy();
      const asked = {
        action, ...this.models, ...this.settings(), switches: this.switches, sides, given, client: this.client,
        picture: this.turns[0]?.picture ?? undefined,
        histories: Object.fromEntries(sides.map((side) => [side, this.history(turn, side)])),
      };
      if (action === "ask" && !given) {
        for (const side of sides) turn.answers[side] = { text: "", tokens: null };
        this.drawAnswers(turn);
      }
      try {
        const told = await this.server.answer(asked);
        if (!told || told.problem) this.complain(told?.problem);
        else await this.follow(told.request, turn, given);
      } catch (error) {
        console.warn(error); // the page's monitor says that the server is away
      }
      clearInterval(clock);
      this.busy_with = null;
      this.drawAnswers(turn);
      this.remember();
      this.setBusy();
      this.root.dataset.answered = Number(this.root.dataset.answered ?? 0) + 1;
    }

    async follow(request, turn, given) {
      this.busy_with.request = request;
      if (this.busy_with.stop) this.stop();
      for (let after = 0, over = false; !over; ) {
        const told = await this.server.answer({ action: "poll", request, after });
        if (!told) break;
        after += told.events.length;
        over = told.over;
        for (const event of told.events) this.hear(event, turn, given);
        if (told.events.some((event) => event.event === "token")) this.drawAnswers(turn);
      }
    }

    // What is waited for before the first word, and for how long; it stands where the words will come.
    waitFor(phase) {
      Object.assign(this.busy_with, { phase, since: Date.now() });
      this.tick();
    }

    waited() {
      const { phase, since } = this.busy_with;
      const n = Math.floor((Date.now() - since) / 1000);
      return phase && n ? this.say("for_seconds", { phase, n }) : phase || "…";
    }

    tick() {
      for (const node of this.root.querySelectorAll(".waiting")) node.textContent = this.waited();
    }

    hear(event, turn, given) {
      const target = event.side && (given ? (turn.answers[event.side].continued ??= { text: "", tokens: null, given: given[event.side].length }) : (turn.answers[event.side] ??= { text: "" }));
      if (event.event === "loading") {
        this.status(this.words.loading);
        this.waitFor(this.words.loading);
      } else if (event.event === "queued") this.waitFor(this.say("queued", { n: event.before }));
      else if (event.event === "ready") {
        this.about(event);
        this.waitFor(this.words.waiting);
      } else if (event.event === "prompt") {
        turn.cut = event.cut;
        turn.off = event.off;
        turn.switched = this.switches.original.length;
      } else if (event.event === "token") target.text += event.text;
      else if (event.event === "ended") {
        Object.assign(target, { ids: event.ids, speed: event.speed, full: event.full });
        this.head({ ...this.speeds, [event.side]: event.speed || this.speeds?.[event.side] });
      } else if (event.event === "apart") Object.assign(target, { tokens: event.tokens, first: event.first });
      else if (event.event === "done") turn.stopped = event.stopped;
      else if (event.event === "failed") {
        this.complain(event.said);
        if (event.died || this.state === this.words.loading) {
          this.status(this.words.not_loaded);
          this.layers = [];
          this.drawLayers();
        }
      }
    }

    async stop() {
      if (!this.busy_with) return;
      this.busy_with.stop = true;
      if (this.busy_with.request) await this.server.answer({ action: "stop", request: this.busy_with.request });
    }

    complain(problem) {
      const slot = this.tell("problem", "");
      if (!problem) return;
      const box = slot.appendChild(make("div", "problem"));
      for (const name of ["what", "where", "todo"]) if (problem[name]) box.append(make("p", name, visible(problem[name])));
    }

    setBusy() {
      const busy = Boolean(this.busy_with);
      const ready = this.root.dataset.ready === "true";
      this.button("send").disabled = busy || !ready;
      this.button("send").hidden = busy;
      this.button("stop").hidden = !busy;
      this.button("again").disabled = busy || !ready || !this.turns.length;
      this.root.classList.toggle("answering", busy);
    }

    again(turn = this.turns.at(-1)) {
      if (!turn || this.busy_with) return;
      this.turns.splice(this.turns.indexOf(turn) + 1).forEach((later) => later.node.remove());
      turn.voted = null;
      turn.blind = this.view.blind;
      this.run(turn, { do: "ask", sides: SIDES });
    }

    edit(turn) {
      if (this.busy_with) return;
      this.turns.splice(this.turns.indexOf(turn)).forEach((later) => later.node.remove());
      this.part("message").value = turn.text;
      if (turn.picture) this.attach(turn.picture);
      this.part("message").focus();
      this.remember();
      this.setBusy();
    }

    goOn(turn, side) {
      const answer = turn.answers[side];
      delete turn.answers[other(side)].continued;
      this.run(turn, { do: "ask", sides: [other(side)], given: { [other(side)]: answer.tokens.slice(0, answer.first + 1).map((token) => token.id) } });
    }

    clear() {
      if (this.busy_with) return;
      this.turns.splice(0).forEach((turn) => turn.node.remove());
      this.complain(null);
      this.remember();
      this.setBusy();
      this.empty();
    }

    // --- showing the conversation -------------------------------------------------------------------------------------------
    empty() {
      const hint = this.part("turns").querySelector(".empty");
      if (hint) hint.hidden = this.turns.length > 0;
    }

    drawTurn(turn) {
      turn.node = make("article", "turn");
      const asked = turn.node.appendChild(make("div", "asked"));
      if (turn.picture) asked.appendChild(make("img")).src = turn.picture;
      const text = visible(turn.text);
      const words = asked.appendChild(make("p", "text", text.slice(0, LONG)));
      words.dir = "auto";
      if (text.length > LONG) asked.append(make("span", "muted", this.say("more", { n: (text.length - LONG).toLocaleString("en") })));
      const edit = asked.appendChild(make("button", "quiet", this.words.edit));
      edit.type = "button";
      edit.onclick = () => this.edit(turn);
      turn.node.append(make("div", "answers"), make("div", "under"));
      this.part("turns").append(turn.node);
      this.empty();
      this.drawAnswers(turn);
    }

    isHidden(turn = this.turns.at(-1)) {
      return Boolean(turn?.blind && !turn.voted);
    }

    drawAnswers(turn) {
      const began = performance.now();
      const log = this.part("turns");
      const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
      const answers = document.createDocumentFragment();
      const order = this.isHidden(turn) ? turn.order : [0, 1];
      for (const place of order) answers.append(this.answer(turn, SIDES[place], this.isHidden(turn) ? order.indexOf(place) : null));
      turn.node.querySelector(".answers").replaceChildren(answers);
      turn.node.querySelector(".under").replaceChildren(...this.under(turn));
      this.root.classList.toggle("blind", this.isHidden());
      if (follows) log.scrollTop = log.scrollHeight;
      this.root.dataset.drawn = (performance.now() - began).toFixed(1);
    }

    answer(turn, side, letter) {
      const said = turn.answers[side] ?? { text: "" };
      const cell = make("div", `answer ${side}`);
      cell.dataset.side = side;
      if (letter !== null) cell.append(make("strong", "letter", letter ? this.words.answer_b : this.words.answer_a));
      cell.append(this.text(said, turn, side, letter !== null));
      if (letter !== null) return cell;
      cell.append(this.facts(said));
      if (said.continued) {
        const more = cell.appendChild(make("div", "continued"));
        more.append(make("span", "muted", this.words.continued), this.text(said.continued, turn, side, true), this.facts(said.continued));
      }
      return cell;
    }

    text(said, turn, side, plain) {
      const words = make("div", "words");
      words.dir = "auto";
      if (!said.tokens || (plain && !said.given)) {
        words.textContent = visible(said.text);
        if (!said.text && this.busy_with?.turn === turn) words.append(make("i", "waiting", this.waited()));
        return words;
      }
      const pieces = document.createDocumentFragment();
      said.tokens.forEach((token, place) => {
        const change = token.quantized - token.original;
        const value = this.view.colour === "change" ? change : token.kl;
        const span = make("span", `tok k${level(value)}${this.view.colour === "change" && change < 0 ? " down" : ""}${token.end ? " end" : ""}`, token.end ? "▪" : visible(token.text));
        span.tok = token;
        if (said.given && place < said.given) span.classList.add("given");
        if (place === said.first) span.classList.add("first");
        span.dataset.value = nats(value);
        pieces.append(span);
        if (place === said.first && !plain) pieces.append(this.goOnButton(turn, side));
      });
      words.append(pieces);
      return words;
    }

    goOnButton(turn, side) {
      const button = make("button", "go-on", "↳");
      button.type = "button";
      button.title = this.words.continue;
      button.setAttribute("aria-label", this.words.continue);
      button.onclick = () => this.busy_with || this.goOn(turn, side);
      return button;
    }

    facts(said) {
      const line = make("p", "answer-facts");
      const told = [];
      if (said.ids) told.push(this.say("tokens", { n: said.ids.length }));
      if (said.speed) told.push(this.say("speed", { n: said.speed.toFixed(0) }));
      if (said.tokens?.length) {
        told.push(this.say("mean", { n: nats(said.tokens.reduce((sum, token) => sum + token.kl, 0) / said.tokens.length) }));
        told.push(said.first === null ? this.words.no_change : this.say("first", { n: said.first + 1 }));
      }
      if (said.full) told.push(this.words.full);
      line.textContent = told.join(" · ");
      return line;
    }

    under(turn) {
      const parts = [];
      if (turn.cut) parts.push(make("span", "note", turn.cut < 0 ? this.words.cut_long : this.say("cut", { n: turn.cut })));
      if (turn.off) parts.push(make("span", "note", this.words.off));
      if (turn.stopped) parts.push(make("span", "note", this.words.stopped));
      if (this.isHidden(turn) && turn.answers.quantized?.tokens) {
        const ballot = this.root.querySelector('[data-template="vote"] .vote').cloneNode(true);
        for (const button of ballot.children) button.onclick = () => this.vote(turn, button.dataset.vote);
        parts.push(ballot);
      }
      if (turn.voted) parts.push(make("span", "note", this.say("reveal", { a: this.words[SIDES[turn.order[0]]], b: this.words[SIDES[turn.order[1]]] })));
      const again = make("button", "quiet", this.words.again);
      again.type = "button";
      again.onclick = () => this.again(turn);
      if (!this.busy_with) parts.push(again);
      return parts;
    }

    async vote(turn, name) {
      const choice = name === "a" ? SIDES[turn.order[0]] : name === "b" ? SIDES[turn.order[1]] : name;
      turn.voted = choice;
      this.drawAnswers(turn);
      this.head();
      this.remember();
      const answers = { answer_original: turn.answers.original.text, answer_quantized: turn.answers.quantized.text };
      this.ask({ action: "vote", vote: { choice, question: turn.text, ...this.models, ...answers } });
    }

    setView() {
      for (const input of this.root.querySelectorAll("[data-view]")) {
        const name = input.dataset.view;
        if (input.type === "checkbox") input.checked = this.view[name];
        else input.value = this.view[name];
      }
      this.root.classList.toggle("with-numbers", this.view.numbers);
      this.root.classList.toggle("without-colour", this.view.colour === "none");
      this.tell("scale", this.view.colour === "none" ? "" : this.say("nats", { low: LEVELS[0], high: LEVELS.at(-1) }));
    }

    // --- tokens -------------------------------------------------------------------------------------------------------------
    showTip(span) {
      const token = span.tok;
      const likely = new Map();
      for (const side of SIDES) for (const [text, logp] of token.top[side]) likely.set(text, { ...likely.get(text), [side]: logp });
      const table = make("table");
      const head = table.createTHead().insertRow();
      for (const text of ["", this.words.original, this.words.quantized]) head.append(make("th", "", text));
      const body = table.createTBody();
      const shown = (logp) => (logp === undefined ? "·" : `${(Math.exp(logp) * 100).toPrecision(3)} %`);
      for (const [text, logps] of likely) {
        const row = body.insertRow();
        row.insertCell().append(make("code", text === token.text ? "own" : "", visible(text) || "∅"));
        for (const side of SIDES) row.insertCell().textContent = shown(logps[side]);
      }
      this.tip.replaceChildren(make("p", "", this.say("tip", { kl: nats(token.kl), change: nats(token.quantized - token.original), id: token.id })), table);
      this.tip.hidden = false;
      const box = span.getBoundingClientRect();
      const left = Math.max(8, Math.min(box.left, innerWidth - this.tip.offsetWidth - 8));
      const below = box.bottom + 6 + this.tip.offsetHeight < innerHeight;
      this.tip.style.left = `${left}px`;
      this.tip.style.top = `${below ? box.bottom + 6 : box.top - this.tip.offsetHeight - 6}px`;
    }

    // --- layers -------------------------------------------------------------------------------------------------------------
    drawLayers() {
      const slot = this.root.querySelector('[data-told="layers"]');
      const shown = slot.querySelector(".empty") ?? this.noLayers;
      this.noLayers = shown;
      if (!this.layers.length) {
        slot.replaceChildren(...(shown ? [shown] : []));
        return this.told();
      }
      const kinds = KINDS.filter((kind) => this.layers.some((layer) => layer.kind === kind && layer.block !== null));
      const rows = new Map();
      for (const layer of this.layers) {
        const key = layer.block === null ? null : `${layer.vision ? "v" : ""}${layer.block}`;
        if (!rows.has(key)) rows.set(key, []);
        rows.get(key).push(layer);
      }
      const table = make("table");
      const head = table.createTHead().insertRow();
      head.append(make("th", "", this.words.block));
      for (const kind of kinds) head.insertCell().append(this.toggle(kind === "kv" ? "kv" : kind, this.layers.filter((layer) => layer.kind === kind && layer.block !== null), this.words.all_layers));
      const body = table.createTBody();
      for (const [key, layers] of rows) {
        if (key === null) continue;
        const row = body.insertRow();
        row.insertCell().append(this.toggle(key, layers, key));
        for (const kind of kinds) row.insertCell().append(...layers.filter((layer) => layer.kind === kind).map((layer) => this.toggle("", [layer], `${layer.name}\n${layer.scheme}`)));
      }
      const loose = (rows.get(null) ?? []).map((layer) => this.toggle(layer.name, [layer], layer.scheme));
      slot.replaceChildren(table, ...loose);
      this.told();
    }

    toggle(text, layers, title) {
      const button = make("button", text ? "layer-name" : "layer-box", text);
      const off = layers.filter((layer) => this.isOff(layer)).length;
      button.type = "button";
      button.title = title;
      button.setAttribute("aria-label", title.replace("\n", ", "));
      button.setAttribute("aria-pressed", String(off === 0));
      if (off && off < layers.length) button.classList.add("some");
      if (layers.length === 1) {
        button.dataset.layer = layers[0].name;
        button.classList.add(layers[0].bits <= 4 ? "bits4" : "bits8");
      }
      button.onclick = () => {
        const names = new Set(this.switches.original);
        for (const layer of layers) off === layers.length ? names.delete(layer.name) : names.add(layer.name);
        // Where a whole part was off, one layer that is switched on shall be on.
        this.setSwitches({ weights: true, activations: true, kv: true, ...this.parts(), original: [...names] });
      };
      return button;
    }

    parts() {
      const { weights, activations, kv } = this.switches;
      return weights || activations || kv ? { weights, activations, kv } : {};
    }

    isOff(layer) {
      const { weights, activations, kv, original } = this.switches;
      return original.includes(layer.name) || (layer.kind === "kv" ? !kv : !weights && !activations);
    }

    preset(name) {
      const only = { weights: false, activations: false, kv: false };
      const parts = name === "all" ? { weights: true, activations: true, kv: true } : name === "none" ? only : { ...only, [name]: true };
      this.setSwitches({ ...parts, original: [] });
    }

    setSwitches(switches) {
      this.switches = switches;
      this.drawLayers();
      this.remember();
    }

    told() {
      const off = this.layers.filter((layer) => this.isOff(layer)).length;
      const text = off && off === this.layers.length ? this.words.off : off ? this.say("partly", { n: off, of: this.layers.length }) : "";
      this.tell("switched", [text, this.folded && this.layers.length ? this.words.folded : ""].filter(Boolean).join(" "));
      const { weights, activations, kv, original } = this.switches;
      const all = weights && activations && kv;
      const name = original.length ? "" : all ? "all" : !weights && !activations && !kv ? "none" : [["weights", weights], ["activations", activations], ["kv", kv]].filter((pair) => pair[1]).map((pair) => pair[0]).join();
      for (const button of this.root.querySelectorAll("[data-preset]")) button.setAttribute("aria-pressed", String(button.dataset.preset === name));
    }

    // --- doing --------------------------------------------------------------------------------------------------------------
    attach(picture) {
      this.picture = picture;
      const slot = this.tell("picture", "");
      slot.hidden = !picture;
      if (!picture) return;
      slot.appendChild(make("img")).src = picture;
      const off = slot.appendChild(make("button", "quiet", "×"));
      off.type = "button";
      off.onclick = () => this.attach(null);
    }

    save(name, text, type) {
      const link = make("a");
      link.href = URL.createObjectURL(new Blob([text], { type }));
      link.download = name;
      document.body.append(link);
      link.click();
      link.remove();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    }

    async fetchFile(action, type) {
      const told = await this.server.answer({ action, ...this.models, lang: document.documentElement.lang });
      if (told?.problem) this.complain(told.problem);
      else if (told) this.save(told.file, told.text, type);
    }

    act(button) {
      const action = button.dataset.do;
      if (action === "send") this.send(this.part("message").value);
      else if (action === "stop") this.stop();
      else if (action === "again") this.again();
      else if (action === "clear") this.clear();
      else if (action === "quantize") quantui.show("quantize");
      else if (action === "votes") this.fetchFile("votes", "application/json");
      else if (action === "report") this.fetchFile("report", "text/html");
      else if (action === "measure") this.ask({ action: "measure", data: this.part("data").value });
    }

    // A row of the flip finder as a conversation of its own, with the picture it was asked about.
    async reopen(text, row) {
      const told = row === undefined ? {} : await this.server.answer({ action: "flip_picture", ...this.models, row });
      if (told?.problem) return this.complain(told.problem);
      this.part("turns").scrollIntoView({ block: "nearest" });
      this.clear();
      this.send(text, { picture: told.picture ?? null, keep: true });
    }

    listen() {
      this.root.addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (!button || button.disabled) return;
        if (button.dataset.do) this.act(button);
        else if (button.dataset.preset) this.preset(button.dataset.preset);
        else if (button.dataset.example) this.send(button.dataset.example, { keep: true });
        else if (button.dataset.flip !== undefined) {
          this.reopen(button.dataset.flip, button.dataset.picture);
        }
      });
      this.root.addEventListener("change", (event) => {
        const input = event.target;
        if (input.dataset.model) {
          this.chosen = { ...this.models, [input.dataset.model]: input.value };
          if (input.dataset.model === "quantized") delete this.chosen.original; // its own, unless another is chosen
          this.look();
        } else if (input.dataset.view) {
          this.view[input.dataset.view] = input.type === "checkbox" ? input.checked : input.value;
          this.setView();
          this.turns.forEach((turn) => this.drawAnswers(turn));
          this.remember();
        } else if (input.dataset.compare === "picture" && input.files[0]) {
          const reader = new FileReader();
          reader.onload = () => this.attach(reader.result);
          reader.readAsDataURL(input.files[0]);
          input.value = "";
        }
      });
      this.root.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.target !== this.part("message")) return;
        event.preventDefault();
        this.send(event.target.value);
      });
      this.root.addEventListener("mouseover", (event) => {
        const span = event.target.closest?.(".tok");
        if (span?.tok) this.showTip(span);
        else this.tip.hidden = true;
      });
      this.root.addEventListener("mouseleave", () => (this.tip.hidden = true));
    }
  }

  // A button anywhere on the page that leads to a tab.
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-show]");
    if (button) quantui.show(button.dataset.show);
  });

  return { start: quantuiLink.starter('[data-compare="root"]', Bench) };
})();
