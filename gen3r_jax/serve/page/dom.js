// Short words for what pages do all the time.

export const $ = (id) => document.getElementById(id);

// element("button", { type: "button", onclick: f }, "text", child)
export const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

export const tell = (text) => { $("message").textContent = text; };

// Runs what a click began, and tells what went wrong.
export const trying = (work) => async (event) => {
  event?.preventDefault();
  const button = event?.submitter || event?.currentTarget;
  if (button instanceof HTMLButtonElement) button.disabled = true;
  try {
    tell("");
    await work(event);
  } catch (error) {
    tell(error.message);
  } finally {
    if (button instanceof HTMLButtonElement) button.disabled = false;
  }
};

export const duration = (seconds) =>
  seconds < 90 ? `${Math.ceil(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;

export const size = (bytes) =>
  bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
