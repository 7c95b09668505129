import {useEffect, useId, useRef} from 'react';
import type {ReactNode} from 'react';

import {useTexts} from '../texts.js';

interface Props {
  title: string;
  onClose: () => void;
  children: ReactNode;
}

/** Dialog over the page; the escape key closes it, and the focus returns to where it was. */
export function Dialog({title, onClose, children}: Props): ReactNode {
  const {t} = useTexts();
  const dialog = useRef<HTMLDialogElement>(null);
  const label = useId();
  useEffect(() => {
    const element = dialog.current;
    element?.showModal();
    return () => element?.close();
  }, []);
  return (
    <dialog ref={dialog} aria-labelledby={label} onClose={onClose}>
      <div className="title">
        <h2 id={label}>{title}</h2>
        <button type="button" onClick={onClose}>
          {t('edit.close')}
        </button>
      </div>
      {children}
    </dialog>
  );
}
