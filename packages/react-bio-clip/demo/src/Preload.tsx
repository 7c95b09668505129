/** Loads the taxa of a bundle in parts before they are needed, for a place without a network. */

import type {BioClip, Progress} from 'react-bio-clip';
import {useState} from 'react';
import type {ReactNode} from 'react';

import {megabytes} from './names.js';

export function Preload({clip, bytes}: {clip: BioClip; bytes: number}): ReactNode {
  const [progress, setProgress] = useState<Progress | null>(null);
  const [said, setSaid] = useState('The names of a group are loaded when a photo needs them.');
  const [loaded, setLoaded] = useState(false);

  const start = async () => {
    setProgress({loaded: 0, total: bytes});
    try {
      await clip.preload(undefined, {onProgress: setProgress});
      setLoaded(true);
      setSaid('All names are loaded.');
    } catch (failure) {
      setSaid(`Not all names could be loaded: ${(failure as Error).message}`);
    }
    setProgress(null);
  };

  return (
    <p className="note" role="status">
      {progress ? `Loading names: ${megabytes(progress.loaded)} of ${megabytes(progress.total)}` : said}{' '}
      {!loaded && !progress && (
        <button type="button" onClick={() => void start()}>
          Load all now, {megabytes(bytes)}
        </button>
      )}
    </p>
  );
}
