/** The page: two views of one model, one photograph or many, in the visitor's language. */

import {useBioClipFrom} from 'react-bio-clip/react';
import {useEffect, useId, useMemo, useState} from 'react';
import type {ReactNode} from 'react';

import {About} from './About.js';
import {FieldNotes} from './field/FieldNotes.js';
import {useNotes} from './field/notes.js';
import {sharedFiles} from './field/shared.js';
import {load, OPTIONS, source} from './model.js';
import {megabytes, partBytes, taxaOf} from './names.js';
import {useOffline} from './offline.js';
import {One} from './One.js';
import {Preload} from './Preload.js';
import {imagesIn} from './photographs.js';
import {firstLanguage, keepLanguage, languageName, LANGUAGES, textsOf, TextsContext, useTexts} from './texts.js';
import {Trouble} from './Trouble.js';

const ONE = '#one';
const FIELD = '#field';

export function App(): ReactNode {
  const [from, setFrom] = useState(source);
  const model = useBioClipFrom(load, from, OPTIONS);
  const {clip, status, progress, error} = model;
  const info = clip?.info ?? null;
  const [chosen, setChosen] = useState<string | null>(null);
  const languages = useMemo(() => [...new Set([...LANGUAGES, ...(info?.languages ?? [])])], [info]);
  const language = chosen ?? firstLanguage(languages);
  const texts = useMemo(() => textsOf(language), [language]);

  const view = useView();
  const [file, setFile] = useState<File | null>(null);
  const notes = useNotes(clip);
  const {add} = notes;
  const open = (files: File[]) => {
    if (!files.length) return;
    if (view === FIELD || files.length > 1) {
      location.hash = FIELD;
      add(files);
    } else setFile(files[0]);
  };
  const dragging = useDrops(open);
  useEffect(() => void sharedFiles().then((files) => files.length && add(files)), [add]);

  const title = texts.t(view === FIELD ? 'field.title' : 'one.title');
  useEffect(() => {
    document.documentElement.lang = language;
    document.title = `bioclip-lite: ${title}`;
  }, [language, title]);
  const choose = (code: string) => {
    keepLanguage(code);
    setChosen(code);
  };

  const loading = (
    <>
      {status === 'error' && (
        <Trouble title={texts.t('model.failed')}>
          <p>{error?.message}</p>
          <button type="button" onClick={() => setFrom(source)}>
            {texts.t('model.retry')}
          </button>
        </Trouble>
      )}
      {status === 'loading' && <Loading loaded={progress?.loaded ?? 0} total={progress?.total ?? 0} />}
    </>
  );

  return (
    <TextsContext value={texts}>
      <div className={dragging ? 'page dragging' : 'page'}>
        <header>
          <div>
            <h1>{title}</h1>
            <p>
              {view === FIELD && texts.t('field.about')}
              {view !== FIELD &&
                (info ? texts.t('one.knows', {count: texts.number(taxaOf(info))}) : texts.t('one.loading'))}
            </p>
          </div>
          <div className="settings">
            <nav aria-label={texts.t('views')}>
              <a href={ONE} aria-current={view === FIELD ? undefined : 'page'}>
                {texts.t('view.one')}
              </a>
              <a href={FIELD} aria-current={view === FIELD ? 'page' : undefined}>
                {texts.t('view.field')}
              </a>
            </nav>
            <label className="language">
              <span className="visually-hidden">{texts.t('language')}</span>
              <select value={language} onChange={(event) => choose(event.target.value)}>
                {languages.map((code) => (
                  <option key={code} value={code} lang={code}>
                    {languageName(code)}
                  </option>
                ))}
              </select>
            </label>
          </div>
        </header>

        {view === FIELD ? (
          <FieldNotes notes={notes} info={info} onFiles={open}>
            {loading}
          </FieldNotes>
        ) : (
          <One model={model} info={info} file={file} onFiles={open}>
            {loading}
          </One>
        )}

        <footer>
          {info && <About info={info} />}
          <Offline loaded={status === 'ready'} inParts={info?.text.parts !== undefined} />
          {clip?.info.text.parts && location.protocol !== 'file:' && (
            <Preload clip={clip} bytes={partBytes(clip.info)} />
          )}
        </footer>
      </div>
    </TextsContext>
  );
}

function Offline({loaded, inParts}: {loaded: boolean; inParts: boolean}): ReactNode {
  return <p className="note">{useOffline(loaded, inParts)}</p>;
}

/** The part of the address behind #, which the back button changes too. */
function useView(): string {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const look = () => setHash(location.hash);
    window.addEventListener('hashchange', look);
    return () => window.removeEventListener('hashchange', look);
  }, []);
  return hash;
}

/** Take photographs that are dropped or pasted anywhere; says whether something is being dragged. */
function useDrops(open: (files: File[]) => void): boolean {
  const [dragging, setDragging] = useState(false);
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
      open(imagesIn(event.dataTransfer));
    };
    const paste = (event: ClipboardEvent) => open(imagesIn(event.clipboardData));
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
  return dragging;
}

function Loading({loaded, total}: {loaded: number; total: number}): ReactNode {
  const {t} = useTexts();
  const id = useId();
  return (
    <div className="loading">
      <label htmlFor={id}>{total > 0 ? t('model.loading.of', {size: megabytes(total)}) : t('model.loading')}</label>
      <progress id={id} max={total || 1} value={loaded} />
    </div>
  );
}
