// A token for NAME that is good for SECONDS: node token.mjs NAME SECONDS
import { mint } from "./jwt.mjs";

const [name, seconds] = process.argv.slice(2);
process.stdout.write(mint({ sub: name }, Number(seconds), process.env.STATUS_KEY ?? "change me"));
