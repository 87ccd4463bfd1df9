// The page: asks for the token if there is one, learns what can be asked for, and hands on to its parts.

import { get, post } from "./api.js";
import { $, tell, trying } from "./dom.js";
import { startForm } from "./form.js";
import { startList } from "./list.js";

const enter = async () => {
  let about;
  try {
    about = await get("/v1/about");
  } catch (error) {
    if (error.status !== 401) throw error;
    $("login").hidden = false;
    $("token").focus();
    return;
  }
  $("login").hidden = true;
  $("main").hidden = false;
  const devices = about.workers.map((worker) => worker.device).join(", ") || "no worker yet";
  const { num_frames: frames, width, height } = about.settings;
  $("server").textContent = `${about.weights.split("/").slice(-2).join("/")}: ${frames} frames of ${width} x ${height}; ${devices}; memory ${about.memory_mode}`;
  const list = startList();
  startForm(about, list);
};

const logIn = async (token) => {
  await post("/v1/login", { token });
  await enter();
};

$("login").addEventListener("submit", trying(() => logIn($("token").value)));

const start = async () => {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    history.replaceState(null, "", "/");  // it does not stay in the bar, nor in the history
    await logIn(given);
  } else {
    await enter();
  }
};
start().catch((error) => tell(error.message));
