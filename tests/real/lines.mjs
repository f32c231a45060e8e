// Lines of JSON between a script and its test: what happened goes out, what to do comes in. A script ends with its test.
import { createInterface } from "node:readline";

export function say(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}

// Orders are named by their only member: {"close": 4000} calls orders.close(4000); what it returns is the answer.
export function obey(orders) {
  const input = createInterface({ input: process.stdin });
  input.on("line", async (line) => {
    const [[name, argument]] = Object.entries(JSON.parse(line));
    const answer = await orders[name](argument);
    if (answer !== undefined) say({ answer });
  });
  input.on("close", () => process.exit(0));
}
