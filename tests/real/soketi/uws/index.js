// The part of uWebSockets.js that soketi uses, on Node's http and ws. Routes are matched in the order in which they were
// added; `/*` is the last. What an application sees of a socket is the ws package's, with `end` for `close` and the
// data that the upgrade attached.
const http = require("node:http");
const { WebSocketServer } = require("ws");

const bytes = (data) => new Uint8Array(data).buffer;
const pattern = (path) => new RegExp(`^${path.replace(/:\w+/g, "([^/]+)").replace(/\/\*$/, "/.*")}$`);

function request(incoming, parameters) {
  const url = new URL(incoming.url, "http://localhost");
  return {
    getParameter: (at) => parameters[at],
    getQuery: () => url.search.slice(1),
    getMethod: () => incoming.method.toLowerCase(),
    getUrl: () => url.pathname,
    getHeader: (name) => incoming.headers[name] ?? "",
  };
}

function response(incoming, outgoing) {
  const head = { status: "200 OK", headers: {} };
  const chunks = [];
  const self = {
    cork: (work) => work(),
    onAborted: (work) => outgoing.on("close", () => outgoing.writableEnded || work?.()),
    onData: (work) => {
      incoming.on("data", (chunk) => chunks.push(chunk));
      incoming.on("end", () => work(bytes(Buffer.concat(chunks)), true));
    },
    writeStatus: (status) => {
      head.status = status;
      return self;
    },
    writeHeader: (name, value) => {
      head.headers[name] = value;
      return self;
    },
    end: (data) => {
      outgoing.writeHead(Number.parseInt(head.status, 10), head.headers);
      outgoing.end(data);
      return self;
    },
  };
  return self;
}

function application() {
  const routes = [];
  const sockets = [];
  const server = http.createServer((incoming, outgoing) => {
    const path = new URL(incoming.url, "http://localhost").pathname;
    const method = incoming.method.toLowerCase();
    for (const route of routes) {
      const found = (route.method === "any" || route.method === method) && route.pattern.exec(path);
      if (found) return route.handle(response(incoming, outgoing), request(incoming, found.slice(1)));
    }
  });
  const upgrader = new WebSocketServer({ noServer: true });
  server.on("upgrade", (incoming, socket, head) => {
    const path = new URL(incoming.url, "http://localhost").pathname;
    const found = sockets.map(({ pattern, behavior }) => [pattern.exec(path), behavior]).find(([match]) => match);
    if (!found) return socket.destroy();
    const [match, behavior] = found;
    const upgrade = (data) =>
      upgrader.handleUpgrade(incoming, socket, head, (client) => {
        Object.assign(client, data, { end: (code, reason) => client.close(code, reason) });
        client.on("message", (data, binary) => behavior.message?.(client, bytes(data), binary));
        client.on("close", (code, reason) => behavior.close?.(client, code, bytes(reason)));
        behavior.open?.(client);
      });
    const address = () => bytes(Buffer.from(socket.remoteAddress ?? ""));
    const answer = { upgrade, getRemoteAddressAsText: address, getProxiedRemoteAddressAsText: address };
    behavior.upgrade(answer, request(incoming, match.slice(1)), null);
  });

  const add = (method) => (path, handle) => {
    routes.push({ method, pattern: pattern(path), handle });
    return self;
  };
  const self = {
    get: add("get"),
    post: add("post"),
    any: add("any"),
    ws: (path, behavior) => {
      sockets.push({ pattern: pattern(path), behavior });
      return self;
    },
    listen: (host, port, done) => {
      server.listen(port, host, () => done(server));
      return self;
    },
  };
  return self;
}

module.exports = { App: application, us_listen_socket_close: (server) => server.close() };
