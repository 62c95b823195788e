// A graph of linked things, laid out from left to right or top down. Loaded only by the screens that show one.
import { Graph, layout } from '@dagrejs/dagre';
import {
  Controls,
  type Edge,
  Handle,
  type Node,
  type NodeProps,
  Position,
  ReactFlow,
  ReactFlowProvider,
} from '@xyflow/react';
import '@xyflow/react/dist/style.css';
import { useComputedColorScheme } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import { useMemo } from 'react';
import { keyPath } from './key';
import { State } from './state';

export type Vertex = { id: string; label: string; status?: string; note?: string; here?: boolean };
export type Arrow = { from: string; to: string; label?: string; busy?: boolean };

const WIDTH = 210;
const HEIGHT = 62;

type VertexNode = Node<{ vertex: Vertex; down: boolean }, 'vertex'>;

function VertexBox({ data: { vertex, down } }: NodeProps<VertexNode>) {
  const path = keyPath(vertex.id);
  return (
    <div className="vertex" data-here={vertex.here || undefined} style={{ width: WIDTH, height: HEIGHT }}>
      <Handle type="target" position={down ? Position.Top : Position.Left} isConnectable={false} />
      {path ? (
        <Link to={path} className="clip" title={vertex.label} style={{ display: 'block' }}>
          {vertex.label}
        </Link>
      ) : (
        <span className="clip" title={vertex.label} style={{ display: 'block' }}>
          {vertex.label}
        </span>
      )}
      <span style={{ display: 'flex', gap: 6, alignItems: 'center', minWidth: 0 }}>
        {vertex.status && <State status={vertex.status} />}
        {vertex.note && (
          <span className="dim clip" style={{ fontSize: '0.75rem' }}>
            {vertex.note}
          </span>
        )}
      </span>
      <Handle type="source" position={down ? Position.Bottom : Position.Right} isConnectable={false} />
    </div>
  );
}

const TYPES = { vertex: VertexBox };

export default function LinkedGraph({
  vertices,
  arrows,
  down = false,
  label,
  heightMax = 460,
}: {
  vertices: Vertex[];
  arrows: Arrow[];
  down?: boolean;
  label: string;
  /** Higher, it is made smaller to fit. */
  heightMax?: number;
}) {
  const scheme = useComputedColorScheme();
  // Places hang on what is linked to what alone, so that figures can change without anything moving.
  const shape = `${down}|${vertices.map(({ id }) => id).join()}|${arrows.map(({ from, to }) => `${from}>${to}`).join()}`;
  // biome-ignore lint/correctness/useExhaustiveDependencies: `shape` says when they change
  const places = useMemo(() => {
    const graph = new Graph();
    graph.setGraph({ rankdir: down ? 'TB' : 'LR', nodesep: 18, ranksep: down ? 70 : 90, marginx: 10, marginy: 10 });
    graph.setDefaultEdgeLabel(() => ({}));
    for (const { id } of vertices) graph.setNode(id, { width: WIDTH, height: HEIGHT });
    for (const { from, to } of arrows) graph.setEdge(from, to);
    layout(graph);
    const box = graph.graph() as { height?: number };
    return {
      at: new Map(vertices.map(({ id }) => [id, graph.node(id) as { x: number; y: number }])),
      height: box.height ?? 0,
    };
  }, [shape]);
  const nodes = vertices.map((vertex): VertexNode => {
    const place = places.at.get(vertex.id) ?? { x: 0, y: 0 };
    return {
      id: vertex.id,
      type: 'vertex',
      position: { x: place.x - WIDTH / 2, y: place.y - HEIGHT / 2 },
      width: WIDTH,
      height: HEIGHT,
      data: { vertex, down },
    };
  });
  const edges = arrows.map(
    ({ from, to, label: text, busy }): Edge => ({
      id: `${from}>${to}`,
      source: from,
      target: to,
      label: text,
      animated: busy ?? false,
      focusable: false,
    }),
  );
  return (
    <section
      style={{
        height: Math.min(heightMax, Math.max(170, places.height + 50)),
        border: '1px solid var(--line)',
        borderRadius: 8,
        overflow: 'hidden',
      }}
      aria-label={label}
    >
      <ReactFlowProvider>
        <ReactFlow
          key={shape}
          nodes={nodes}
          edges={edges}
          nodeTypes={TYPES}
          colorMode={scheme}
          fitView
          fitViewOptions={{ maxZoom: 1, padding: 0.12 }}
          minZoom={0.1}
          nodesDraggable={false}
          nodesConnectable={false}
          nodesFocusable={false}
          edgesFocusable={false}
          elementsSelectable={false}
          preventScrolling={false}
        >
          <Controls showInteractive={false} />
        </ReactFlow>
      </ReactFlowProvider>
    </section>
  );
}
