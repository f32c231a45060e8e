// An app on the feed with the npm package eventsource, which comes back by itself as a browser does. Its argument: the address.
import { EventSource } from "eventsource";
import { obey, say } from "./lines.mjs";

const source = new EventSource(process.argv[2]);
source.addEventListener("open", () => say({ open: source.url }));
source.addEventListener("error", (error) => say({ error: error.code ?? 0, state: source.readyState }));
for (const kind of ["message", "hello", "subscribed", "snapshot", "gap", "reset", "error", "closing"]) {
  source.addEventListener(kind, (event) => {
    if (event.data !== undefined) say({ frame: JSON.parse(event.data), type: kind, id: event.lastEventId });
  });
}

obey({ close: () => source.close() });
