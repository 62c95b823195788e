// A file that an attempt left, fetched piece by piece and handed to the browser to keep.
import { Button, Text } from '@mantine/core';
import { Download } from 'lucide-react';
import { useEffect, useRef, useState } from 'react';
import { graphql } from '../live/graphql';
import { asProblem, type Problem } from '../live/problem';
import { request } from '../live/request';
import { bytes } from '../ui/figures';

const PIECE = graphql(`
  query ArtifactPiece($task: ID!, $from: BigInt!) {
    node(id: $task) {
      ... on Task { artifacts { name hash content(fromByte: $from) { base64 nextByte atEnd } } }
    }
  }
`);

/** A page holds the whole file for a moment; larger ones are not for it. */
const BYTES_MAX = 256 * 2 ** 20;

type Artifact = { name: string; hash: string; bytes: number };

export function ArtifactDownload({ task, artifact }: { task: string; artifact: Artifact }) {
  const [done, setDone] = useState<number>();
  const [problem, setProblem] = useState<Problem>();
  const over = useRef(new AbortController());
  useEffect(() => {
    over.current = new AbortController();
    return () => over.current.abort();
  }, []);
  if (artifact.bytes > BYTES_MAX)
    return (
      <Text size="xs" c="dimmed">
        too large for a page; read it over the API, piece by piece
      </Text>
    );
  const fetchAll = async () => {
    const { signal } = over.current;
    setProblem(undefined);
    try {
      const pieces: Uint8Array<ArrayBuffer>[] = [];
      for (let from = 0, atEnd = false; !atEnd; ) {
        setDone(from);
        const { node } = await request(PIECE, { task, from }, signal);
        const all = node && 'artifacts' in node ? node.artifacts : [];
        const found = all?.find(({ hash, name }) => hash === artifact.hash && name === artifact.name);
        if (!found) throw new Error('The file is no longer there.');
        pieces.push(Uint8Array.from(atob(found.content.base64), (char) => char.charCodeAt(0)));
        from = found.content.nextByte;
        ({ atEnd } = found.content);
      }
      // Never as a page of ours: a browser would run what is in it.
      const url = URL.createObjectURL(new Blob(pieces, { type: 'application/octet-stream' }));
      const link = document.createElement('a');
      link.href = url;
      link.download = artifact.name.replaceAll(/[^\w.-]+/g, '_');
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    } catch (error) {
      if (!signal.aborted) setProblem(asProblem(error));
    } finally {
      setDone(undefined);
    }
  };
  return (
    <>
      <Button
        size="compact-sm"
        variant="default"
        leftSection={<Download size={13} />}
        disabled={done !== undefined}
        onClick={fetchAll}
        aria-label={`Download ${artifact.name}`}
      >
        {done === undefined ? 'Download' : `${bytes(done)} of ${bytes(artifact.bytes)}`}
      </Button>
      {problem && (
        <Text size="xs" role="alert" style={{ color: 'var(--bad)' }}>
          {problem.message}
        </Text>
      )}
    </>
  );
}
