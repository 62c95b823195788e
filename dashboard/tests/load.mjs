// How smooth the page is with 1,000 agents and 10,000 tasks while 200 things a second change: frames, long tasks, memory.
//
// node tests/load.mjs [SECONDS] [PATH…]   prints the figures beside what they are held against; 60 s on each screen unless
//                                         given, 300 for the promise
import { loadavg } from 'node:os';
import { launch, live, open } from './support/browser.mjs';
import { Node, until } from './support/node.mjs';

const seconds = Number(process.argv[2] ?? 60);
const AGENTS = 1_000;
const TASKS = 10_000;
const CHANGES_PER_SECOND = 200;
const TASKS_PER_SECOND = 75;
const FRAME_P95_MS = 50;
/** From the middle of the time to its end, when all that is bounded has reached its bound. */
const HEAP_GROWTH_MAX = 0.1;
const HEAP_NOISE_MIB = 2;
const LOOKS = 6;
const named = process.argv.slice(3);
const paths =
  named.length > 0 ? named : ['/ui/', '/ui/tasks', '/ui/tasks?view=table', '/ui/agents', '/ui/events', '/ui/tree'];

const node = await Node.start();
const browser = await launch();
try {
  const scale = 'mutation($i:ScaleSwarmInput!){scaleSwarm(input:$i){cursor}}';
  await node.cli('swarm', 'create', 'crowd', '-q');
  for (let agents = 100; agents <= AGENTS; agents += 100) {
    await node.ask(scale, {
      i: { swarm: 'crowd', agents, template: { name: 'crowd', connector: { noop: true }, maxConcurrentTasks: 4 } },
    });
  }
  const submit = (count, title) =>
    node.ask('mutation($i:SubmitTasksInput!){submitTasks(input:$i){cursor}}', {
      i: {
        swarm: 'crowd',
        tasks: Array.from({ length: count }, (_, index) => ({ title: `${title} ${index}`, kind: 'noop' })),
      },
    });
  for (let made = 0; made < TASKS; made += 500) await submit(500, `before ${made}`);
  await until(
    'all have ended',
    async () => {
      const { swarms } = await node.ask('{swarms(filter:{nameContains:"crowd"}){nodes{taskCounts{status count}}}}');
      return swarms.nodes[0].taskCounts.find(({ status }) => status === 'SUCCEEDED').count >= TASKS;
    },
    300_000,
  );
  console.log(`${AGENTS} agents, ${TASKS} tasks; ${seconds} s per screen`);
  let bad = false;
  const head = async () => Number((await node.ask('{cluster{cursor}}')).cluster.cursor);
  for (const path of paths) {
    const page = await open(browser, node, { path });
    await live(page);
    const devtools = await page.context().newCDPSession(page);
    const heap = async () => {
      await devtools.send('HeapProfiler.collectGarbage');
      return (await devtools.send('Runtime.getHeapUsage')).usedSize / 2 ** 20;
    };
    let over = false;
    let tasks = 0;
    const load = (async () => {
      const began = Date.now();
      for (let round = 0; !over; round += 1) {
        // A task that ends at once is three changes: assigned, started, ended; and a little more than is held to.
        await submit(TASKS_PER_SECOND, `during ${round}`);
        tasks += TASKS_PER_SECOND;
        await new Promise((resolve) => setTimeout(resolve, Math.max(0, began + (round + 1) * 1_000 - Date.now())));
      }
    })();
    // The page has its lists before it is measured.
    await page.waitForTimeout(5_000);
    const heaps = [await heap()];
    const [from, begun] = [await head(), Date.now()];
    const looking = (async () => {
      for (let look = 1; look < LOOKS; look += 1) {
        await new Promise((resolve) => setTimeout(resolve, (seconds * 1_000) / LOOKS));
        heaps.push(await heap());
      }
    })();
    const frames = await page.evaluate(
      (ms) =>
        new Promise((resolve) => {
          const found = [];
          const long = [];
          new PerformanceObserver((list) => long.push(...list.getEntries().map(({ duration }) => duration))).observe({
            type: 'longtask',
          });
          const begun = performance.now();
          let last = begun;
          const frame = (now) => {
            found.push(now - last);
            last = now;
            if (now - begun < ms) requestAnimationFrame(frame);
            else resolve({ found, long });
          };
          requestAnimationFrame(frame);
        }),
      seconds * 1_000,
    );
    await looking;
    const rate = ((await head()) - from) / ((Date.now() - begun) / 1_000);
    heaps.push(await heap());
    over = true;
    await load;
    const sorted = frames.found.sort((one, other) => one - other);
    const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
    const p95 = at(0.95);
    const [middle, last] = [heaps[Math.floor(LOOKS / 2)], heaps.at(-1)];
    const flat = last <= middle * (1 + HEAP_GROWTH_MAX) + HEAP_NOISE_MIB;
    const loaded = rate >= CHANGES_PER_SECOND;
    bad ||= p95 >= FRAME_P95_MS || !flat || !loaded;
    console.log(
      `${path.padEnd(22)} frame p50 ${at(0.5).toFixed(1)} p95 ${p95.toFixed(1)} (held to ${FRAME_P95_MS}) p99 ${at(0.99).toFixed(1)} max ${sorted.at(-1).toFixed(0)} ms of ${sorted.length}; ` +
        `${frames.long.length} tasks over 50 ms; heap ${heaps.map((each) => each.toFixed(1)).join(' ')} MiB (${flat ? 'flat' : 'GROWS'}); ` +
        `${rate.toFixed(0)} changes a second (at least ${CHANGES_PER_SECOND}${loaded ? '' : ', NOT REACHED'}), ${tasks} tasks; load average ${loadavg()[0].toFixed(1)}`,
    );
    await page.context().close();
  }
  process.exitCode = bad ? 1 : 0;
} finally {
  await browser.close();
  await node.stop();
}
