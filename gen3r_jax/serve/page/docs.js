// The interface, as openapi.json has it.

import { get } from "./api.js";
import { $, element, tell } from "./dom.js";

const show = async () => {
  const { paths } = await get("/openapi.json");
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, { description, summary, parameters = [] }] of Object.entries(methods)) {
      const names = parameters.filter((one) => one.in !== "path").map((one) => `${one.name} (${one.in})`).join(", ");
      $("calls").append(
        element("dt", {}, element("code", {}, `${method.toUpperCase()} ${path}`)),
        element("dd", {}, description || summary || "", names ? ` Also: ${names}.` : ""));
    }
  }
};
show().catch((error) => tell(error.message));
