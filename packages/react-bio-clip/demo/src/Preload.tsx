/** Loads the taxa of a bundle in parts before they are needed, for a place without a network. */

import type {BioClip, Progress} from 'react-bio-clip';
import {useState} from 'react';
import type {ReactNode} from 'react';

import {megabytes} from './names.js';
import {useTexts} from './texts.js';

export function Preload({clip, bytes}: {clip: BioClip; bytes: number}): ReactNode {
  const {t} = useTexts();
  const [progress, setProgress] = useState<Progress | null>(null);
  const [said, setSaid] = useState(t('names.lazy'));
  const [loaded, setLoaded] = useState(false);

  const start = async () => {
    setProgress({loaded: 0, total: bytes});
    try {
      await clip.preload(undefined, {onProgress: setProgress});
      setLoaded(true);
      setSaid(t('names.done'));
    } catch (failure) {
      setSaid(t('names.failed', {reason: (failure as Error).message}));
    }
    setProgress(null);
  };

  return (
    <p className="note" role="status">
      {progress ? t('names.loading', {loaded: megabytes(progress.loaded), total: megabytes(progress.total)}) : said}{' '}
      {!loaded && !progress && (
        <button type="button" onClick={() => void start()}>
          {t('names.start', {size: megabytes(bytes)})}
        </button>
      )}
    </p>
  );
}
