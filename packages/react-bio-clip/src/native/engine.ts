/** Parts of a browser that TensorFlow.js takes for granted and Hermes, the engine of React Native, may lack. */

import * as tf from '@tensorflow/tfjs-core';

import {BioClipError} from '../core/errors.js';

const NEEDED = ['AbortController', 'TextDecoder', 'TextEncoder'] as const;
const DIGITS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';

/** The platform of TensorFlow.js, which defines one for browsers and Node only. */
const PLATFORM: Parameters<tf.Environment['setPlatform']>[1] = {
  fetch: (path, init) => fetch(path, init),
  now: () => performance.now(),
  encode: (text) => new TextEncoder().encode(text),
  decode: (bytes, encoding) => new TextDecoder(encoding).decode(bytes),
  isTypedArray: (value): value is Float32Array | Int32Array | Uint8Array | Uint8ClampedArray =>
    value instanceof Float32Array ||
    value instanceof Int32Array ||
    value instanceof Uint8Array ||
    value instanceof Uint8ClampedArray,
};

/**
 * Add what TensorFlow.js needs and this engine lacks, and nothing that is there.
 *
 * @throws BioClipError that names what only the application can add
 */
export function completeEngine(): void {
  const missing = NEEDED.filter((name) => typeof globalThis[name] === 'undefined');
  if (missing.length) {
    throw new BioClipError(
      'environment',
      `this JavaScript engine has no ${missing.join(', ')}: import a polyfill first, such as fast-text-encoding for text`,
    );
  }
  globalThis.atob ??= decodeBase64; // the converter reads attributes of the graph with it
  if (!tf.env().platform) tf.env().setPlatform('react-native', PLATFORM);
}

/** Decode Base64 as `atob` does: a character for each byte. */
function decodeBase64(text: string): string {
  let result = '';
  let [bits, count] = [0, 0];
  for (const digit of text.replace(/=+$/, '')) {
    const value = DIGITS.indexOf(digit);
    if (value < 0) throw new Error(`${JSON.stringify(digit)} is no digit of base64`);
    bits = (bits << 6) | value;
    count += 6;
    if (count < 8) continue;
    count -= 8;
    result += String.fromCharCode((bits >> count) & 255);
  }
  return result;
}
