// Calls of the server. An answer that is an error becomes an Error with the server's words.

export class Refused extends Error {
  constructor(status, message, wait) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
}

const call = async (method, path, body, headers = {}) => {
  let answer;
  try {
    answer = await fetch(path, { method, body, headers, credentials: "same-origin" });
  } catch {
    throw new Refused(0, "the server does not answer; it may be starting again", 1);
  }
  const text = await answer.text();
  let document = null;
  try {
    document = text ? JSON.parse(text) : null;
  } catch { /* no JSON: of a proxy */ }
  if (!answer.ok) {
    const wait = Number(answer.headers.get("Retry-After") || 0);
    throw new Refused(answer.status, document?.error || `the server answers with status ${answer.status}`, wait);
  }
  return document;
};

export const get = (path) => call("GET", path);
export const remove = (path) => call("DELETE", path);
export const post = (path, document) =>
  call("POST", path, JSON.stringify(document), { "Content-Type": "application/json" });

// The same form sent again after a failure on the way makes no second scene.
export const send = async (path, form) => {
  const headers = { "Idempotency-Key": [...crypto.getRandomValues(new Uint8Array(16))].join("-") };
  try {
    return await call("POST", path, form, headers);
  } catch (error) {
    if (error.status) throw error;
    await new Promise((done) => setTimeout(done, 1500));
    return call("POST", path, form, headers);
  }
};

// Waits until a job has ended; `tell` is called with it on the way.
export const ended = async (id, tell = () => {}) => {
  for (;;) {
    const job = await get(`/v1/scenes/${id}`);
    tell(job);
    if (["done", "failed", "cancelled"].includes(job.status)) return job;
    await new Promise((done) => setTimeout(done, 250));
  }
};
