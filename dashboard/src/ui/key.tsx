// Keys of entities, as links to their pages.
import { ActionIcon } from '@mantine/core';
import { useRouter } from '@tanstack/react-router';
import { Check, Copy } from 'lucide-react';
import { type ReactNode, useState } from 'react';

/** Ids begin with their time, so their ends tell them apart. */
export function shortKey(key: string): string {
  const [noun, id] = key.split('_');
  return id && id.length > 10 ? `${noun}…${id.slice(-6)}` : key;
}

export function keyPath(key: string): string | undefined {
  const noun = key.split('_')[0];
  if (noun === 'task') return `/tasks/${key}`;
  if (noun === 'agent') return `/agents/${key}`;
  if (noun === 'swarm') return `/swarms/${key}`;
  if (noun === 'host') return `/hosts/${key}`;
  if (noun === 'vm') return `/vms/${key}`;
  if (noun === 'network') return `/networks/${key}`;
  if (noun === 'node') return `/cluster`;
  return undefined;
}

export function KeyLink({ id, name }: { id: string; name?: string | null }) {
  const label = name ?? shortKey(id);
  const path = keyPath(id);
  if (!path)
    return (
      <span className={name ? undefined : 'mono'} title={id}>
        {label}
      </span>
    );
  return (
    <PlainLink to={path} className={name ? undefined : 'mono'} title={id}>
      {label}
    </PlainLink>
  );
}

/** A link without the router's own machinery in it, which costs too much where hundreds come and go each second. */
function PlainLink({ to, children, ...more }: { to: string; children: ReactNode; className?: string; title?: string }) {
  const router = useRouter();
  return (
    <a
      href={`/ui${to}`}
      {...more}
      onClick={(event) => {
        if (event.defaultPrevented || event.button !== 0) return;
        if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
        event.preventDefault();
        void router.navigate({ to });
      }}
    >
      {children}
    </a>
  );
}

/** Copies text, also where a page over plain HTTP has no clipboard of its own. */
export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement('textarea');
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    return done;
  }
}

export function CopyKey({ id }: { id: string }) {
  const [copied, setCopied] = useState(false);
  return (
    <span style={{ display: 'inline-flex', alignItems: 'center', gap: '0.25rem', minWidth: 0 }}>
      <span className="mono dim wrap">{id}</span>

      <ActionIcon
        variant="subtle"
        color="gray"
        size="sm"
        aria-label={`Copy ${id}`}
        title={copied ? 'Copied' : 'Copy'}
        onClick={async () => setCopied(await copy(id))}
        onBlur={() => setCopied(false)}
      >
        {copied ? <Check size={14} /> : <Copy size={14} />}
      </ActionIcon>
    </span>
  );
}
