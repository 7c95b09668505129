/** Share props and turns between the cameras for pages and for React Native. `Photo` is the form of a photograph. */

import type {ReactNode} from 'react';

import type {Answer, ClassifyOptions} from '../core/types.js';

export interface ViewOf<Photo> {
  answer: Answer | null;
  /** A photograph is being classified. */
  working: boolean;
  error: Error | null;
  /** The photograph that was taken; null while the preview runs. */
  photo: Photo | null;
}

export interface PropsOf<Photo, Labels> {
  /** Answer again and again, without a shutter. */
  continuous?: boolean;
  /** Milliseconds of rest between continuous answers. */
  interval?: number;
  /** Options of each answer. */
  options?: Omit<ClassifyOptions, 'signal'>;
  onAnswer?: (answer: Answer, photo: Photo | null) => void;
  /** Called with each photograph of the shutter. */
  onPhoto?: (photo: Photo) => void;
  labels?: Partial<Labels>;
  /** Draws the answer, inside a live region: a node, or a function of the current view. */
  children?: ReactNode | ((view: ViewOf<Photo>) => ReactNode);
}

/** Take turns with `interval` milliseconds of rest between them; gives a function that ends it. */
export function repeat(turn: () => Promise<unknown>, interval: number): () => void {
  let timer: ReturnType<typeof setTimeout>;
  let over = false;
  const next = async () => {
    await turn();
    if (!over) timer = setTimeout(next, interval);
  };
  void next();
  return () => {
    over = true;
    clearTimeout(timer);
  };
}
