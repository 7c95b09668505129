import type {Answer} from 'react-bio-clip';
import {BioClipCamera, useBioClipFrom} from 'react-bio-clip/react';
import {useCallback, useEffect, useId, useMemo, useRef, useState} from 'react';
import type {ChangeEvent, ReactNode} from 'react';

import {About} from './About.js';
import {AnswerView, spoken} from './Answer.js';
import {load, OPTIONS, SOURCE} from './model.js';
import {languageName, megabytes, partBytes, preferred, taxaOf} from './names.js';
import {useOffline} from './offline.js';
import {Preload} from './Preload.js';
import {WhereField, type Where} from './Where.js';
import {imageIn, openPhoto} from './photographs.js';
import type {Photo} from './photographs.js';

const CANDIDATES = {topK: 5};

export function App(): ReactNode {
  const {clip, status, progress, error: loadError, classify} = useBioClipFrom(load, SOURCE, OPTIONS);
  const [photo, setPhoto] = useState<Photo | null>(null);
  const [answer, setAnswer] = useState<Answer | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const [camera, setCamera] = useState(false);
  const [live, setLive] = useState(false);
  const [chosen, setChosen] = useState<string | null>(null);
  const [dragging, setDragging] = useState(false);
  const [where, setWhere] = useState<Where>({});
  const offline = useOffline(status === 'ready', clip?.info.text.parts !== undefined);
  const picker = useRef<HTMLInputElement>(null);
  const cameraButton = useRef<HTMLButtonElement>(null);
  const label = useId();

  const start = useCallback(() => {
    setAnswer(null);
    setError(null);
  }, []);

  const open = useCallback(
    async (file: File | null) => {
      if (!file) return;
      start();
      setCamera(false);
      try {
        setPhoto(await openPhoto(file));
      } catch (failure) {
        setPhoto(null);
        setError(failure as Error);
      }
    },
    [start],
  );
  useEffect(() => () => photo?.release(), [photo]);

  useEffect(() => {
    if (!photo || status !== 'ready') return undefined;
    const controller = new AbortController();
    classify(photo.bitmap, {...CANDIDATES, ...where, signal: controller.signal}).then(setAnswer, (failure: Error) => {
      if (!controller.signal.aborted && failure.name !== 'AbortError') setError(failure);
    });
    return () => controller.abort();
  }, [photo, status, classify, where]);

  useEffect(() => {
    const over = (event: DragEvent) => {
      event.preventDefault();
      setDragging(true);
    };
    const leave = (event: DragEvent) => {
      if (!event.relatedTarget) setDragging(false);
    };
    const drop = (event: DragEvent) => {
      event.preventDefault();
      setDragging(false);
      void open(imageIn(event.dataTransfer));
    };
    const paste = (event: ClipboardEvent) => void open(imageIn(event.clipboardData));
    document.addEventListener('dragover', over);
    document.addEventListener('dragleave', leave);
    document.addEventListener('drop', drop);
    document.addEventListener('paste', paste);
    return () => {
      document.removeEventListener('dragover', over);
      document.removeEventListener('dragleave', leave);
      document.removeEventListener('drop', drop);
      document.removeEventListener('paste', paste);
    };
  }, [open]);

  const pick = (event: ChangeEvent<HTMLInputElement>) => {
    void open(event.target.files?.[0] ?? null);
    event.target.value = ''; // so that the same photograph can be chosen again
  };
  const toggleCamera = () => {
    start();
    setPhoto(null);
    setLive(false);
    setCamera(!camera);
    cameraButton.current?.focus();
  };

  const info = clip?.info ?? null;
  const options = useMemo(() => ({...CANDIDATES, ...where}), [where]);
  const languages = info?.languages ?? [];
  const language = chosen ?? preferred(languages);
  const level = info?.thresholds?.level ?? null;
  const isWorking = photo !== null && !answer && !error && status !== 'error';
  const announcement = answer ? spoken(answer, level, language, !live) : '';

  return (
    <div className={dragging ? 'page dragging' : 'page'}>
      <header>
        <div>
          <h1>Which species is this?</h1>
          <p>
            {info ? `One of ${taxaOf(info).toLocaleString('en')}, named on this device. ` : 'Named on this device. '}
            Your photos stay here.
          </p>
        </div>
        {languages.length > 1 && (
          <label className="language">
            <span>Names in</span>
            <select value={language} onChange={(event) => setChosen(event.target.value)}>
              {languages.map((code) => (
                <option key={code} value={code}>
                  {languageName(code)}
                </option>
              ))}
            </select>
          </label>
        )}
      </header>

      <main className={photo || camera ? 'with-photo' : ''}>
        <section className="photo" aria-labelledby={label}>
          <h2 id={label} className="visually-hidden">
            Photograph
          </h2>
          {photo && <img src={photo.url} alt={photo.name ? `Your photo, ${photo.name}` : 'Your photo'} />}
          {camera && (
            <BioClipCamera
              classify={classify}
              ready={status === 'ready'}
              continuous={live}
              options={options}
              onAnswer={setAnswer}
              onPhoto={start}
            />
          )}
          {!photo && !camera && (
            <div className="empty">
              <Sprig />
              <p>
                One animal, plant or fungus, large and sharp.
                <span className="with-mouse"> Drop a photo here, or paste it.</span>
              </p>
            </div>
          )}
          <div className="buttons">
            <button type="button" className={camera ? '' : 'first'} onClick={() => picker.current?.click()}>
              {photo ? 'Another photo' : 'Open a photo'}
            </button>
            <input ref={picker} type="file" accept="image/*" aria-label="Photograph" hidden onChange={pick} />
            <button type="button" ref={cameraButton} aria-expanded={camera} onClick={toggleCamera}>
              {camera ? 'Close camera' : 'Use camera'}
            </button>
            {camera && (
              <label className="live">
                <input type="checkbox" checked={live} onChange={(event) => setLive(event.target.checked)} />
                <span>Answer while I look</span>
              </label>
            )}
          </div>
          {info?.prior && <WhereField onChange={setWhere} />}
        </section>

        <section className="answer" aria-label="Answer" aria-busy={isWorking}>
          <p className="visually-hidden" role="status">
            {announcement}
          </p>
          {status === 'error' && <Trouble title="The model could not be loaded" error={loadError} />}
          {error && <Trouble title="That did not work" error={error} />}
          {status === 'loading' && <Loading loaded={progress?.loaded ?? 0} total={progress?.total ?? 0} />}
          {answer && info && <AnswerView answer={answer} ranks={info.ranks} language={language} level={level} />}
          {answer?.missing && (
            <p className="note">
              The names below {answer.missing.join(', ')} could not be loaded: the answer may be of a higher rank than
              it could be, and nothing is promised for it.
            </p>
          )}
          {isWorking && status === 'ready' && <p className="note">Looking …</p>}
          {!answer && !isWorking && !error && status === 'ready' && (
            <>
              <p className="note">
                It says how sure it is at each rank, and stops at the genus or the family where the species is not
                certain.
              </p>
              <Skeleton ranks={info?.ranks ?? []} />
            </>
          )}
        </section>
      </main>

      <footer>
        {info && <About info={info} />}
        <p className="note">{offline}</p>
        {clip?.info.text.parts && location.protocol !== 'file:' && <Preload clip={clip} bytes={partBytes(clip.info)} />}
      </footer>
    </div>
  );
}

function Trouble({title, error}: {title: string; error: Error | null}): ReactNode {
  return (
    <div className="trouble" role="alert">
      <h2>{title}</h2>
      <p>{error?.message}</p>
    </div>
  );
}

function Loading({loaded, total}: {loaded: number; total: number}): ReactNode {
  const id = useId();
  return (
    <div className="loading">
      <label htmlFor={id}>Loading the model{total > 0 && ` (${megabytes(total)})`}, once</label>
      <progress id={id} max={total || 1} value={loaded} />
    </div>
  );
}

/** Placeholder of the answer on large screens. */
function Skeleton({ranks}: {ranks: readonly string[]}): ReactNode {
  return (
    <ol className="path skeleton" aria-hidden="true">
      {ranks.map((rank) => (
        <li key={rank} className="guess">
          <span className="rank">{rank}</span>
          <span />
          <span />
          <span className="bar" />
        </li>
      ))}
    </ol>
  );
}

/** A small tree, growing from the picture's lower edge. */
function Sprig(): ReactNode {
  return (
    <svg className="sprig" viewBox="0 0 120 96" aria-hidden="true">
      <path d="M60 92V72C60 58 36 62 36 46V44C36 34 20 36 20 22M36 44C36 34 52 36 52 22M60 72C60 58 86 62 86 46V22" />
      <circle cx="20" cy="16" r="5" />
      <circle className="found" cx="52" cy="13" r="8" />
      <circle cx="86" cy="16" r="5" />
    </svg>
  );
}
