// An Ethereum node on loopback: ganache, a block for each evm_mine. `taken` subscription ids are used up before anybody comes.
import ganache from "ganache";
import { obey, say } from "./lines.mjs";

const taken = Number(process.argv[2]);
const server = ganache.server({ logging: { quiet: true }, wallet: { deterministic: true } });
await server.listen(0, "127.0.0.1");
const request = (method, params) => server.provider.request({ method, params });
for (let n = 0; n < taken; n += 1) await request("eth_subscribe", ["newHeads"]);
say({ port: server.address().port });

obey({
  request: async ([method, params]) => await request(method, params),
});
