import {useEffect, useState} from 'react';
import type {ReactNode} from 'react';

/** Picture of a photograph, whose address lives as long as it is shown. */
export function Thumbnail({of, alt}: {of: Blob; alt: string}): ReactNode {
  const [url, setUrl] = useState<string>();
  useEffect(() => {
    const made = URL.createObjectURL(of);
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [of]);
  return <img src={url} alt={alt} loading="lazy" decoding="async" />;
}
