// A GraphQL service over WebSocket: graphql-ws, which lets in who names the token that counts now.
import { buildSchema, GraphQLError } from "graphql";
import { useServer } from "graphql-ws/use/ws";
import { WebSocketServer } from "ws";
import { obey, say } from "./lines.mjs";

let token = process.argv[2];
const listeners = new Set();
const schema = buildSchema(`
  type Tick { symbol: String! price: Float! }
  type Order { id: ID! symbol: String! }
  type Query { ready: Boolean! }
  type Mutation { place(symbol: String!): Order! }
  type Subscription { ticks(symbol: String!): Tick! }
`);

// An iterator by hand: a generator that waits cannot be ended from outside.
function ticks({ symbol }) {
  const queue = [];
  let waiting = null;
  const turn = () => {
    if (waiting === null || queue.length === 0) return;
    const tick = queue.shift();
    waiting(tick === null ? { done: true } : { value: { ticks: tick }, done: false });
    waiting = null;
  };
  const listener = (tick) => {
    if (tick === null || tick.symbol === symbol) queue.push(tick);
    turn();
  };
  listeners.add(listener);
  say({ subscribed: symbol });
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    next: () =>
      new Promise((resolve) => {
        waiting = resolve;
        turn();
      }),
    return: async () => {
      if (listeners.delete(listener)) say({ unsubscribed: symbol });
      waiting?.({ done: true });
      return { done: true };
    },
  };
}

function place({ symbol }) {
  if (symbol === "HALTED") throw new GraphQLError("trading is halted");
  say({ placed: symbol });
  return { id: "o-1", symbol };
}

const service = new WebSocketServer({ port: 0, host: "127.0.0.1", path: "/graphql" });
useServer(
  {
    schema,
    roots: { subscription: { ticks }, mutation: { place } },
    onConnect: ({ connectionParams }) => {
      say({ connected: connectionParams ?? null });
      return connectionParams?.token === token;
    },
    onClose: (_, code) => say({ closed: code }),
  },
  service,
);
service.on("listening", () => say({ port: service.address().port }));

obey({
  token: (next) => {
    token = next;
  },
  // What every subscriber of its symbol gets; null ends all subscriptions.
  tick: (tick) => {
    for (const listener of listeners) listener(tick);
  },
  close: (code) => {
    for (const client of service.clients) client.close(code, "as the test wants it");
  },
});
