import {sha256 as sha256InJavaScript} from '@noble/hashes/sha2.js';
import {bytesToHex} from '@noble/hashes/utils.js';

/** The SHA-256 of some bytes in hexadecimal; without SubtleCrypto (plain http, React Native) in JavaScript. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const subtle = globalThis.crypto?.subtle;
  return bytesToHex(subtle ? new Uint8Array(await subtle.digest('SHA-256', bytes)) : sha256InJavaScript(bytes));
}
