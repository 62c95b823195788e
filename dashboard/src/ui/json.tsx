// JSON and text, shown as they are; large ones cut until asked for.
import { Button } from '@mantine/core';
import { useState } from 'react';

const SHOWN_MAX = 4_000;

export function TextBlock({ text, label }: { text: string; label: string }) {
  const [all, setAll] = useState(false);
  const long = text.length > SHOWN_MAX;
  return (
    <>
      <pre className="text" role="region" tabIndex={0} aria-label={label}>
        {long && !all ? `${text.slice(0, SHOWN_MAX)}…` : text}
      </pre>
      {long && !all && (
        <Button size="compact-xs" variant="subtle" onClick={() => setAll(true)}>
          Show all {text.length} characters
        </Button>
      )}
    </>
  );
}

export function Json({ value, label }: { value: unknown; label: string }) {
  return <TextBlock text={typeof value === 'string' ? value : JSON.stringify(value, null, 2)} label={label} />;
}
