// Real nodes of the real binary, HIVEWARD_BIN, on loopback ports of their own, with data of their own. Nothing outlives the test.
import { execFile, spawn } from 'node:child_process';
import { createWriteStream, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
export const BINARY = process.env.HIVEWARD_BIN ?? '';

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Over a connection of its own: one that is kept may be closed by the node just when it is used again. */
function post(url, headers, body) {
  return new Promise((resolve, reject) => {
    const asked = request(url, { method: 'POST', headers, agent: false }, (answer) => {
      let text = '';
      answer.setEncoding('utf8');
      answer.on('data', (piece) => {
        text += piece;
      });
      answer.on('end', () => resolve(text));
      answer.on('error', reject);
    });
    asked.on('error', reject);
    asked.end(body);
  });
}

/** Waits until `look` gives something, and says what it waited for if it never does. */
export async function until(what, look, withinMs = 30_000) {
  const end = Date.now() + withinMs;
  let last;
  while (Date.now() < end) {
    try {
      const found = await look();
      if (found !== undefined && found !== null && found !== false) return found;
    } catch (error) {
      last = error;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`waited ${withinMs} ms in vain: ${what}${last ? `: ${last.message}` : ''}`);
}

/** HIVEWARD_… are settings of a node; those of whoever runs the tests are not its own. */
const CLEAN = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('HIVEWARD_')));

/** A test that fails half way leaves no node behind. */
const LIVING = new Set();
process.on('exit', () => {
  for (const child of LIVING) child.kill('SIGKILL');
});

export class Node {
  /** `args` go to `hiveward dev`, or to `hiveward up` where `cluster` says so. */
  static async start({ args = [], config, env = {}, cluster = false } = {}) {
    const node = new Node();
    node.dir = mkdtempSync(join(tmpdir(), 'hiveward-dashboard-'));
    node.port = await freePort();
    node.linkPort = await freePort();
    node.url = `http://127.0.0.1:${node.port}`;
    node.env = env;
    node.kind = cluster ? 'up' : 'dev';
    node.args = args;
    node.configure(config);
    await node.begin(args);
    return node;
  }

  configure(config) {
    this.config = config && join(this.dir, 'config.yaml');
    if (config) writeFileSync(this.config, config);
  }

  async begin(more = []) {
    const args = [this.kind, '--data-dir', join(this.dir, 'data'), '--listen', `127.0.0.1:${this.port}`];
    args.push(
      '--cluster-listen',
      `127.0.0.1:${this.linkPort}`,
      ...(this.config ? ['--config', this.config] : []),
      ...more,
    );
    const log = createWriteStream(join(this.dir, 'log'), { flags: 'a' });
    this.process = spawn(BINARY, args, { env: { ...CLEAN, ...this.env }, stdio: ['ignore', 'pipe', 'pipe'] });
    LIVING.add(this.process);
    const child = this.process;
    child.once('exit', () => LIVING.delete(child));
    this.process.stdout.pipe(log);
    this.process.stderr.pipe(log);
    this.gone = new Promise((resolve) => this.process.once('exit', resolve));
    let exited = false;
    this.gone.then(() => {
      exited = true;
    });
    await until('the node is ready', async () => {
      if (exited) throw new Error(`it ended: ${readFileSync(join(this.dir, 'log'), 'utf8').slice(-2_000)}`);
      return (await fetch(`${this.url}/readyz`)).ok;
    });
    this.token = readFileSync(join(this.dir, 'data', 'admin.token'), 'utf8').trim();
  }

  /** What the command line prints. */
  async cli(...args) {
    const env = { ...CLEAN, HIVEWARD_URL: this.url, HIVEWARD_TOKEN: this.token };
    const { stdout } = await run(BINARY, args, { env, maxBuffer: 64 << 20, timeout: 60_000 });
    return stdout.trim();
  }

  async ask(query, variables) {
    const headers = { 'Content-Type': 'application/json', Authorization: `Bearer ${this.token}` };
    const body = JSON.parse(await post(`${this.url}/graphql`, headers, JSON.stringify({ query, variables })));
    if (body.errors) throw new Error(JSON.stringify(body.errors));
    return body.data;
  }

  submit(input) {
    return this.ask('mutation($i:SubmitTaskInput!){submitTask(input:$i){task{id}}}', { i: input }).then(
      ({ submitTask }) => submitTask.task.id,
    );
  }

  shell(title, script, more = {}) {
    return this.submit({ title, command: { argv: ['sh', '-c', script] }, ...more });
  }

  agent(input) {
    return this.ask('mutation($i:CreateAgentInput!){createAgent(input:$i){agent{id}}}', { i: input }).then(
      ({ createAgent }) => createAgent.agent.id,
    );
  }

  ended(task, status) {
    return until(`${task} is ${status}`, async () => {
      const { node } = await this.ask('query($t:ID!){node(id:$t){... on Task{status}}}', { t: task });
      return node.status === status;
    });
  }

  /** All events, from the beginning. */
  async events() {
    const all = [];
    for (let after = '0', more = true; more; ) {
      const { events } = await this.ask(
        'query($a:Cursor){events(first:500,after:$a){nodes{cursor kind task} pageInfo{endCursor hasNextPage}}}',
        { a: after },
      );
      all.push(...events.nodes);
      after = events.pageInfo.endCursor;
      more = events.pageInfo.hasNextPage;
    }
    return all;
  }

  /** As a power cut does it to the process. */
  async kill() {
    this.process.kill('SIGKILL');
    await this.gone;
  }

  async stop() {
    if (this.process.exitCode === null && this.process.signalCode === null) {
      // What agents hold is ended first, so that no session is left behind.
      const { agents } = await this.ask('{agents(first:500,filter:{status:[BUSY,PAUSED]}){nodes{id}}}').catch(() => ({
        agents: { nodes: [] },
      }));
      await Promise.allSettled(
        agents.nodes.map(({ id }) =>
          this.ask('mutation($i:StopAgentInput!){stopAgent(input:$i){cursor}}', { i: { agent: id, mode: 'NOW' } }),
        ),
      );
      this.process.kill('SIGTERM');
      const cut = setTimeout(() => this.process.kill('SIGKILL'), 20_000);
      await this.gone;
      clearTimeout(cut);
    }
    rmSync(this.dir, { recursive: true, force: true });
  }
}
