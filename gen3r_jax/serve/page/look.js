// A scene that is done: its own viewer, its files, and the command that makes it again.

import { get } from "./api.js";
import { $, element, size } from "./dom.js";

let shown = null;

export const look = async (id) => {
  const scene = await get(`/v1/scenes/${id}`);
  shown = id;
  $("look-title").textContent = scene.prompt || id;
  const viewer = scene.files.find((file) => file.name === "viewer.html");
  $("viewer").hidden = !viewer;
  if (viewer) $("viewer").src = viewer.url;
  $("zip").href = `/v1/scenes/${id}/zip`;
  $("zip").download = `${id}.zip`;
  $("command").value = scene.command;
  $("files-of").replaceChildren(...scene.files.map((file) => element("li", {},
    element("a", { href: file.url, download: file.name.split("/").pop() }, file.name), ` ${size(file.bytes)}`)));
  $("look").showModal();
};

// The dialog, if it shows this scene.
export const lookedAt = (id) => (shown === id && $("look").open ? $("look") : null);

$("close").addEventListener("click", () => $("look").close());
$("look").addEventListener("close", () => {
  shown = null;
  $("viewer").src = "about:blank";  // nothing is drawn any more
});
$("command").addEventListener("focus", () => $("command").select());
