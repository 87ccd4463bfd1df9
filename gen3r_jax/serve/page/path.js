// The camera's path: a preset, key poses set in the view, or a file; shown before anything is made.

import { ended, get, send } from "./api.js";
import { $, element, tell, trying } from "./dom.js";

const KEYS = "keys";
const FILE = "file";
const MOVES = [
  ["←", "left", [-1, 0, 0]], ["→", "right", [1, 0, 0]], ["↑", "up", [0, 1, 0]], ["↓", "down", [0, -1, 0]],
  ["+", "forward", [0, 0, 1]], ["−", "back", [0, 0, -1]], ["↶", "turn left", [0, 0, 0, 1]], ["↷", "turn right", [0, 0, 0, -1]],
];

export const startPath = (about, form) => {
  const presets = new Map(about.presets.map((preset) => [preset.name, preset]));
  const easings = about.fields.find((field) => field.name === "camera_easing");
  let view = null;
  let found = null;  // the last preview
  let keys = [];  // matrices, as camera_path.json has them
  let playing = 0;

  $("cameras").append(
    ...about.presets.map(({ name, help }) => element("option", { value: name, title: help }, name.replaceAll("_", " "))),
    element("option", { value: KEYS }, "key poses of your own"),
    element("option", { value: FILE }, "a camera file"));
  $("camera_easing").append(...easings.choices.map((name) => element("option", { value: name === "none" ? "" : name },
    { none: "even", ends: "slow ends", keys: "slow at every pose" }[name] || name)));

  const arrange = () => {
    const which = $("cameras").value;
    const options = presets.get(which)?.options || [];
    $("of-angle").hidden = !options.includes("angle");
    $("of-distance").hidden = !options.includes("distance");
    $("of-easing").hidden = which === "free";
    $("of-file").hidden = which !== FILE;
    $("keys").hidden = which !== KEYS;
    forget();
  };

  // What is shown is not of these pictures and this path any more.
  const forget = () => {
    if ($("cameras").value === KEYS && found) return;
    fly(false);
    $("flight").hidden = true;
    $("preview-state").textContent = "";
  };

  const keyFile = () => {
    const fov = view.fov;
    const frame = (matrix) => ({ camera_to_world: matrix, fov, aspect: found.width / found.height });
    const first = [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1];
    const document = { camera_type: "perspective", render_height: found.height, render_width: found.width,
      camera_path: [first, ...keys].map(frame) };
    return new File([JSON.stringify(document)], "camera_path.json", { type: "application/json" });
  };

  const fields = async () => {
    const which = $("cameras").value;
    const told = [];
    if (which === FILE) {
      if (!$("cameras_file").files.length) throw new Error("choose a camera file, or another path");
      told.push(["cameras_file", $("cameras_file").files[0]]);
    } else if (which === KEYS) {
      if (!keys.length) throw new Error("set a key pose first: look at the path, move the view, add it");
      told.push(["cameras_file", keyFile()]);
    } else {
      told.push(["cameras", which]);
    }
    for (const name of ["angle", "distance"]) {
      const value = $(`camera_${name}`).value;
      if (value && presets.get(which)?.options.includes(name)) told.push([`camera_${name}`, value]);
    }
    if ($("camera_easing").value && which !== "free") told.push(["camera_easing", $("camera_easing").value]);
    return told;
  };

  const preview = async () => {
    const setting = $("cameras").value === KEYS && !keys.length;
    const job = await send("/v1/cameras/preview", form(setting ? [["cameras", "free"]] : await fields()));
    const said = { queued: "waits for a scene that is being made", running: "finds points" };
    const done = await ended(job.id, ({ status }) => { $("preview-state").textContent = said[status] || ""; });
    if (done.status !== "done") throw new Error(done.error || `the preview was ${done.status}`);
    found = await get(`/v1/scenes/${job.id}/files/preview.json`);
    $("flight").hidden = false;
    if (!view) {
      const { View } = await import("./view.js");
      view = new View($("view"));
    }
    view.show(found);
    if (setting) view.first();
    $("frame").max = Math.max(0, found.c2w.length - 1);
    $("frame").value = 0;
    showFrame();
  };

  const showFrame = () => {
    const count = found.c2w.length;
    view.frame(Number($("frame").value));
    $("frame-number").textContent = count ? `frame ${Number($("frame").value) + 1} of ${count}` : "no path: the model chooses";
  };
  const fly = (on) => {
    clearInterval(playing);
    playing = on ? setInterval(() => {
      $("frame").value = (Number($("frame").value) + 1) % Math.max(1, found.c2w.length);
      showFrame();
    }, 120) : 0;
    $("fly").textContent = on ? "❚❚" : "▶";
    $("fly").setAttribute("aria-label", on ? "stop" : "fly along the path");
  };

  const showKeys = () => {
    $("key-poses").replaceChildren(...keys.map((_, index) => element("li", {}, `key pose ${index + 2} `,
      element("button", { type: "button", onclick: trying(async () => {
        keys.splice(index, 1);
        showKeys();
        await preview();
      }) }, "remove"))));
  };

  $("moves").append(...MOVES.map(([sign, name, by]) =>
    element("button", { type: "button", ariaLabel: name, title: name, onclick: () => view.move(...by) }, sign)));
  $("add-key").addEventListener("click", trying(async () => {
    keys.push(view.pose());
    showKeys();
    await preview();
  }));
  $("first-view").addEventListener("click", () => view.first());
  $("preview").addEventListener("click", trying(preview));
  $("frame").addEventListener("input", showFrame);
  $("fly").addEventListener("click", () => fly(!playing));
  $("cameras").addEventListener("change", arrange);
  for (const id of ["camera_angle", "camera_distance", "camera_easing", "cameras_file"]) $(id).addEventListener("change", forget);
  arrange();
  tell("");

  return {
    fields,
    // Other pictures are given, or another number of frames.
    forget: () => {
      keys = [];
      showKeys();
      found = null;
      forget();
    },
  };
};
