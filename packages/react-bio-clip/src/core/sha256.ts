import {sha256 as sha256InJavaScript} from '@noble/hashes/sha2.js';
import {bytesToHex} from '@noble/hashes/utils.js';

/** SHA-256 in hexadecimal; computed in JavaScript where SubtleCrypto is missing (plain http, React Native). */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const subtle = globalThis.crypto?.subtle;
  return bytesToHex(subtle ? new Uint8Array(await subtle.digest('SHA-256', bytes)) : sha256InJavaScript(bytes));
}
