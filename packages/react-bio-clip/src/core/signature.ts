/** The signature of a manifest, which lists the SHA-256 of all other files: Ed25519 over its bytes, in a file beside it. */

import {BioClipError} from './errors.js';
import {messageOf, signatureOf, type Manifest} from './origin.js';

type Bytes = Uint8Array<ArrayBuffer>;

/** Throw unless the manifest, read from the folder `where`, was signed with the key whose public part is given in PEM. */
export async function checkSignature(
  where: string,
  manifest: Manifest,
  text: Bytes,
  signature: Bytes,
  publicKey: string,
) {
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) {
    throw new BioClipError(
      'environment',
      'publicKey needs WebCrypto, which pages have on https and localhost, and React Native lacks: use integrity',
    );
  }
  const key = await importKey(subtle, publicKey);
  if (await subtle.verify('Ed25519', key, signature, text)) return;
  const name = signatureOf(manifest);
  throw new BioClipError(
    'signature',
    `${name} in ${where} is not the signature of ${manifest} by the key that publicKey gives: one of the two files ` +
      'was changed, or somebody else signed',
    name,
  );
}

async function importKey(subtle: SubtleCrypto, publicKey: string): Promise<CryptoKey> {
  try {
    const base64 = /^\s*-----BEGIN PUBLIC KEY-----([\s\w+/=]+)-----END PUBLIC KEY-----\s*$/.exec(publicKey)?.[1] ?? '';
    const der = Uint8Array.from(atob(base64.replace(/\s/g, '')), (letter) => letter.charCodeAt(0));
    return await subtle.importKey('spki', der, 'Ed25519', false, ['verify']);
  } catch (error) {
    if ((error as Error).name === 'NotSupportedError') {
      const missing = 'this browser knows no Ed25519, by which publicKey checks a bundle: update it, or use integrity';
      throw new BioClipError('environment', missing, null, error);
    }
    throw new BioClipError('argument', `publicKey is no Ed25519 public key in PEM (${messageOf(error)})`, null, error);
  }
}
