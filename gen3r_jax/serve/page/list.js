// The queue and the gallery: one list, the newest first, which any tab keeps up to date.

import { get, post, remove } from "./api.js";
import { $, duration, element, size, tell, trying } from "./dom.js";
import { look, lookedAt } from "./look.js";

const PAGE = 30;
const EVERY = 1000;  // milliseconds between two looks while something is made
const IDLE = 5000;

export const startList = () => {
  const cards = new Map();
  let pages = 1;
  let timer = 0;

  const refresh = async () => {
    clearTimeout(timer);
    let next = null;
    const scenes = [];
    try {
      for (let page = 0; page < pages; page += 1) {
        const answer = await get(`/v1/scenes?limit=${PAGE}${next === null ? "" : `&before=${next}`}`);
        scenes.push(...answer.scenes);
        next = answer.next;
        if (next === null) break;
      }
      show(scenes);
      $("more").hidden = next === null;
    } catch (error) {
      tell(error.message);
    }
    const busy = scenes.some((scene) => ["queued", "running"].includes(scene.status));
    timer = setTimeout(refresh, busy ? EVERY : IDLE);
  };

  const show = (scenes) => {
    const wanted = new Set(scenes.map((scene) => scene.id));
    for (const [id, card] of cards) {
      if (!wanted.has(id)) {
        card.node.remove();
        cards.delete(id);
      }
    }
    let before = null;
    for (const scene of scenes) {
      let card = cards.get(scene.id);
      if (!card) {
        card = makeCard(scene.id, refresh);
        cards.set(scene.id, card);
      }
      card.update(scene);
      const place = before ? before.nextSibling : $("list").firstChild;
      if (place !== card.node) $("list").insertBefore(card.node, place);
      before = card.node;
    }
  };

  $("more").addEventListener("click", () => {
    pages += 1;
    refresh();
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  refresh();
  return { refresh };
};

// The nodes of a card stay, so that the focus does; what they say changes.
const makeCard = (id, refresh) => {
  const base = `/v1/scenes/${id}`;
  const picture = element("img", { alt: "", hidden: true });
  const none = element("div", { className: "none" });
  const prompt = element("p");
  const state = element("p", { className: "state" });
  const progress = element("progress", { max: 1 });
  const button = (text, work) => element("button", { type: "button", onclick: trying(work) }, text);
  const open = button("Look", () => look(id));
  const again = button("Another seed", async () => {
    await post(`${base}/again`, { seed: Math.floor(Math.random() * 2 ** 32) });
    await refresh();
  });
  const stop = button("Cancel", async () => {
    await remove(base);
    await refresh();
  });
  const drop = button("Delete", async () => {
    if (!confirm("Delete this scene and its files?")) return;
    await remove(base);
    lookedAt(id)?.close();
    await refresh();
  });
  const node = element("li", {}, element("div", {}, picture, none),
    element("div", {}, prompt, state, progress, element("div", { className: "row" }, open, stop, again, drop)));
  node.dataset.id = id;
  let shown = "";
  const update = (scene) => {
    const running = scene.status === "running";
    const waiting = scene.status === "queued";
    prompt.textContent = scene.prompt || (scene.kind === "reconstruct" ? "reconstruction" : id);
    const said = {
      queued: scene.ahead ? `waits for ${scene.ahead} others` : "waits",
      running: `${scene.cancelling ? "is being cancelled" : scene.stage || "begins"}${scene.seconds_left === null ? "" : `; about ${duration(scene.seconds_left)} left`}`,
      done: `done; seed ${scene.fields.seed ?? "of the folder"}; ${size(scene.bytes)}`,
      failed: `failed: ${scene.error}`,
      cancelled: "cancelled",
    }[scene.status];
    if (state.textContent !== said) state.textContent = said;
    state.classList.toggle("bad", scene.status === "failed");
    progress.hidden = !running;
    progress.value = scene.progress;
    progress.setAttribute("aria-label", `progress of ${prompt.textContent}`);
    open.hidden = scene.status !== "done";
    stop.hidden = !(running || waiting);
    stop.disabled = scene.cancelling;
    again.hidden = running || waiting || scene.kind !== "generate" || !scene.command;
    drop.hidden = running || waiting;
    picture.hidden = !scene.picture;
    none.hidden = Boolean(scene.picture);
    const version = `${scene.picture}?${running ? scene.progress : scene.status}`;
    if (scene.picture && version !== shown) {
      picture.src = shown = version;
      picture.alt = `picture of: ${prompt.textContent}`;
    }
  };
  return { node, update };
};
