#!/usr/bin/env python3
"""Measure the public mLSTM Triton kernels (NX-AI/mlstm_kernels) and torch SDPA on one Hopper GPU.

  PYTHONPATH=/path/to/mlstm_kernels python3 bench_peers.py                 # default set, wall < 240 s
  PYTHONPATH=... python3 bench_peers.py --budget 560 --full                # all 8 sequence lengths, cs256, fla
  PYTHONPATH=... python3 bench_peers.py --only 'numerics|step'             # a regex on the case id
  python3 bench_peers.py --list                                            # case ids only, needs no GPU

Needs torch(cuda) + triton; einops/numpy are shimmed if missing. Read-only with respect to the peer's code.

How it works: the parent (imports no torch) (1) starts a few short-lived warmers that run every mLSTM case once
in parallel, so the Triton/Inductor disk caches are hot (each shape is a full recompile: B, NH, S and all strides
are constexpr in the peer's kernels); (2) starts one measuring worker, which reports a JSON line per case. A case
that raises is recorded and skipped; one that kills the CUDA context or hangs costs a worker restart only.

Columns: fw_ms / fwbw_ms = median of triton.testing.do_bench (L2 flushed, python launch overhead included when
it is the bottleneck); g_ms = do_bench_cudagraph (pure GPU; step kernels and LRAM forward only); mem = peak GiB of
fw+bw above the inputs; TF/s = nominal causal FLOPs / fw time (see flops()); GB/s for step = state read+write only.
A step state smaller than the 50 MB L2 stays in L2 under g_ms. bf16 everywhere except the fp32 recurrent state. SDPA here is causal (is_causal=True), unlike the baselines in
mlstm_kernels/baselines/flash_attention/torch_sdp_attention.py, which run NON-causal attention.
"""
import argparse
import json
import math
import os
import queue
import re
import subprocess
import sys
import threading
import time

T0 = time.time()
TOK = 65536
XL, SIG, LIM = "chunkwise--triton_xl_chunk", "chunkwise--triton_xl_chunk_siging", "chunkwise--triton_limit_chunk"
SHORT = {XL: "xl_exp", SIG: "xl_sig", LIM: "limit_exp"}


# ----------------------------------------------------------------------------------------------- cases
def build_cases(a):
    cs = []

    def mlstm(tag, kern, B, NH, S, dqk, dhv, chunk, norm=False, graph=False):
        cid = f"{tag}/{SHORT[kern]}_cs{chunk}{'_norm' if norm else ''}/B{B}_NH{NH}_S{S}_{dqk}x{dhv}"
        cs.append(dict(id=cid, kind="mlstm", kern=kern, B=B, NH=NH, S=S, dqk=dqk, dhv=dhv, chunk=chunk,
                       norm=norm, graph=graph))

    def sdpa(tag, backend, B, NH, S, d):
        cs.append(dict(id=f"{tag}/sdpa_{backend}/B{B}_NH{NH}_S{S}_{d}", kind="sdpa", backend=backend, B=B, NH=NH,
                       S=S, dqk=d, dhv=d))

    def step(tag, B, NH, dqk, dhv):
        cs.append(dict(id=f"{tag}/step_triton/B{B}_NH{NH}_{dqk}x{dhv}", kind="step", B=B, NH=NH, S=1, dqk=dqk, dhv=dhv))

    all_seqs = [512 << i for i in range(8)]                                   # 512 .. 65536
    seqs = all_seqs if a.full else [512, 2048, 8192, 65536]
    seqs2 = all_seqs if a.full else [512, 8192, 65536]
    # 1. the TFLA paper's own shape: embed 4096, 16 heads, dqk 128, dhv 256, 65,536 tokens
    for S in [8192] + [s for s in seqs if s != 8192]:
        for kern, chunk in ((XL, 128), (SIG, 128), (LIM, 64)):
            mlstm("paper", kern, TOK // S, 16, S, 128, 256, chunk)
    if a.full:
        for S in (8192, 65536):
            mlstm("paper", XL, TOK // S, 16, S, 128, 256, 256)
            mlstm("paper", SIG, TOK // S, 16, S, 128, 256, 256)
            mlstm("paper", SIG, TOK // S, 16, S, 128, 256, 128, norm=True)
    # 2. LRAM-like: batch 64, embed 1024, 4 or 8 heads; S not a multiple of the chunk goes through the peer's padding
    for S in (200, 150, 1024):
        for NH in (4, 8):
            d = 1024 // NH
            for kern, chunk in ((XL, 64), (SIG, 64), (LIM, 64)):
                mlstm("lram", kern, 64, NH, S, d, d, chunk, graph=True)
            if S == 1024:
                mlstm("lram", XL, 64, NH, S, d, d, 128, graph=True)
    # 3. decode step (fp32 state, bf16 q/k/v/gates)
    for B in (1, 64, 256):
        step("step7b", B, 8, 256, 512)
        step("lram", B, 4, 256, 256)
        step("lram", B, 8, 128, 128)
    # 4. attention baselines, causal
    for S in [8192] + [s for s in all_seqs if s != 8192]:
        for be in ("cudnn", "flash"):
            sdpa("paper", be, TOK // S, 32, S, 128)
    for S in (200, 150, 1024):
        for be in ("cudnn", "flash"):
            sdpa("lram", be, 64, 8, S, 128)
            sdpa("lram", be, 64, 4, S, 256)
    # 5. numerics of the peer kernels against an fp64 reference (one small shape)
    for what in ("xl_exp", "xl_sig", "xl_sig_norm", "limit_exp", "step_bf16", "step_fp32"):
        cs.append(dict(id=f"numerics/{what}", kind="numerics", what=what, B=2, NH=2, S=512, dqk=128, dhv=128))
    # 6. other head dims at embed 4096: 7B (256/512) and 128/128
    for S in seqs2:
        for kern, chunk in ((XL, 128), (SIG, 128), (LIM, 64)):
            mlstm("hd512", kern, TOK // S, 8, S, 256, 512, chunk)
            mlstm("hd128", kern, TOK // S, 32, S, 128, 128, chunk)
    if a.full or a.fla:
        for S in (512, 8192, 65536):
            cs.append(dict(id=f"paper/fla_simple_gla/B{TOK // S}_NH16_S{S}_128x256", kind="fla", B=TOK // S, NH=16,
                           S=S, dqk=128, dhv=256))
    if a.only:
        rx = re.compile(a.only)
        cs = [c for c in cs if rx.search(c["id"])]
    for i, c in enumerate(cs):
        c["idx"] = i
    return cs


def flops(c):
    """Nominal matmul FLOPs of one forward, causal: intra 1/2 * 2L(dqk+dhv), state update + readout 4 dqk dhv."""
    B, NH, S, dq, dv = c["B"], c["NH"], c["S"], c["dqk"], c["dhv"]
    if c["kind"] == "sdpa":
        return B * NH * S * S * (dq + dv)                                     # 4*S^2*d halved by causality
    L = c.get("chunk", 64)
    return B * NH * S * (4 * dq * dv + L * (dq + dv))


# ----------------------------------------------------------------------------------------------- worker side
def shims():
    """Minimal stand-ins so that the peer imports without einops / numpy (only its timing paths are used)."""
    import types
    try:
        import einops  # noqa: F401
    except ImportError:
        m = types.ModuleType("einops")

        def rearrange(x, pattern, **ax):
            lhs, rhs = [p.strip() for p in pattern.split("->")]
            if lhs == "b nh (nc l)" and rhs == "b nh nc l":
                nc = ax["nc"] if "nc" in ax else x.shape[2] // ax["l"]
                return x.reshape(x.shape[0], x.shape[1], nc, x.shape[2] // nc)
            if lhs == "b nh nc l" and rhs == "b nh (nc l)":
                return x.reshape(x.shape[0], x.shape[1], -1)
            raise NotImplementedError(pattern)

        m.rearrange = rearrange
        sys.modules["einops"] = m
    try:
        import numpy  # noqa: F401
    except ImportError:
        m = types.ModuleType("numpy")
        m.ndarray = object
        sys.modules["numpy"] = m


class Env:
    def __init__(self):
        shims()
        import torch
        import triton
        import triton.testing
        self.torch, self.triton = torch, triton
        if not torch.cuda.is_available():
            raise SystemExit("no CUDA device")
        torch.backends.cuda.matmul.allow_tf32 = True
        try:                                     # one static specialisation per shape: the peer's best case
            import torch._dynamo as dyn
            dyn.config.automatic_dynamic_shapes = False
            for k in ("cache_size_limit", "recompile_limit", "accumulated_cache_size_limit",
                      "accumulated_recompile_limit"):
                try:
                    setattr(dyn.config, k, 2048)
                except Exception:
                    pass
        except Exception:
            pass

    # --- inputs and functions -------------------------------------------------------------------
    def mlstm(self, c, dtype=None, device="cuda"):
        t = self.torch
        dtype = dtype or t.bfloat16
        B, NH, S, dq, dv = c["B"], c["NH"], c["S"], c["dqk"], c["dhv"]
        g = t.Generator(device=device).manual_seed(1)

        def rn(*s):
            return t.randn(*s, device=device, dtype=t.float32, generator=g)

        inp = [rn(B, NH, S, dq), rn(B, NH, S, dq), rn(B, NH, S, dv), rn(B, NH, S), 3.0 + rn(B, NH, S)]
        inp = [x.to(dtype).requires_grad_(True) for x in inp]
        dout = rn(B, NH, S, dv).to(dtype)
        return inp, dout, self.mlstm_fn(c)

    def mlstm_fn(self, c):
        from mlstm_kernels.torch import get_mlstm_kernel
        base = get_mlstm_kernel(c["kern"])
        kw = {"normalize": bool(c["norm"])} if c["kern"] == SIG else {}
        if c["S"] % c["chunk"]:
            from mlstm_kernels.torch.kernel_wrappers import wrap_chunkwise__pad_zeros

            def fn(q, k, v, i, f):
                return wrap_chunkwise__pad_zeros(mlstm_chunkwise_kernel=base, q=q, k=k, v=v, f=f, i=i,
                                                 chunk_size=c["chunk"], **kw)
        else:
            def fn(q, k, v, i, f):
                return base(q=q, k=k, v=v, i=i, f=f, chunk_size=c["chunk"], **kw)
        return fn

    def sdpa(self, c):
        t = self.torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
        be = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}[c["backend"]]
        sh = (c["B"], c["NH"], c["S"], c["dqk"])
        inp = [t.randn(*sh, device="cuda", dtype=t.bfloat16).requires_grad_(True) for _ in range(3)]
        dout = t.randn(*sh, device="cuda", dtype=t.bfloat16)

        def fn(q, k, v):
            with sdpa_kernel(be):
                return t.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return inp, dout, fn

    def fla(self, c):
        t = self.torch
        from fla.ops.simple_gla import chunk_simple_gla                         # layout [B, T, H, D] at HEAD
        B, NH, S, dq, dv = c["B"], c["NH"], c["S"], c["dqk"], c["dhv"]
        mk = lambda *s: t.randn(*s, device="cuda", dtype=t.bfloat16)           # noqa: E731
        inp = [mk(B, S, NH, dq), mk(B, S, NH, dq), mk(B, S, NH, dv),
               t.nn.functional.logsigmoid(3 + t.randn(B, S, NH, device="cuda"))]
        inp = [x.detach().requires_grad_(True) for x in inp]
        return inp, mk(B, S, NH, dv), lambda q, k, v, g: chunk_simple_gla(q, k, v, g=g)[0]

    def step(self, c, dt=None):
        t = self.torch
        dt = dt or t.bfloat16
        from mlstm_kernels.torch import get_mlstm_step_kernel
        kern = get_mlstm_step_kernel("triton")
        B, NH, dq, dv = c["B"], c["NH"], c["dqk"], c["dhv"]
        mk = lambda *s: t.randn(*s, device="cuda", dtype=t.float32)            # noqa: E731
        a = dict(q=mk(B, NH, dq).to(dt), k=mk(B, NH, dq).to(dt), v=mk(B, NH, dv).to(dt), i=mk(B, NH, 1).to(dt),
                 f=(mk(B, NH, 1) + 4.5).to(dt), c=mk(B, NH, dq, dv), n=mk(B, NH, dq), m=mk(B, NH, 1))
        return lambda: kern(**a, dtype_state=t.float32)

    # --- measuring ------------------------------------------------------------------------------
    def bench(self, fn, a):
        return float(self.triton.testing.do_bench(fn, warmup=a.warm_ms, rep=a.rep_ms, return_mode="median"))

    def graph(self, fn):
        try:
            return float(self.triton.testing.do_bench_cudagraph(fn, rep=15, return_mode="median"))
        except Exception as e:
            self.torch.cuda.synchronize()
            return "ERR " + type(e).__name__

    def once(self, c):
        t = self.torch
        if c["kind"] == "numerics":
            self.numerics(c)
        elif c["kind"] == "step":
            self.step(c)()
        else:
            inp, dout, fn = (self.mlstm if c["kind"] == "mlstm" else self.fla)(c)
            with t.no_grad():
                fn(*inp)
            t.autograd.grad(fn(*inp), inp, dout)
        t.cuda.synchronize()

    def measure(self, c, a):
        t, r = self.torch, {}
        if c["kind"] == "numerics":
            return self.numerics(c)
        if c["kind"] == "step":
            fn = self.step(c)
            r["fw_ms"] = self.bench(fn, a)
            r["g_ms"] = self.graph(fn)
            ms = r["g_ms"] if isinstance(r["g_ms"], float) else r["fw_ms"]
            r["GBps"] = 2 * 4 * c["B"] * c["NH"] * c["dqk"] * c["dhv"] / ms / 1e6
            return r
        inp, dout, fn = {"mlstm": self.mlstm, "sdpa": self.sdpa, "fla": self.fla}[c["kind"]](c)

        def fw():
            with t.no_grad():
                return fn(*inp)

        def fwbw():
            return t.autograd.grad(fn(*inp), inp, dout)

        r["fw_ms"] = self.bench(fw, a)
        t.cuda.synchronize()
        t.cuda.empty_cache()
        t.cuda.reset_peak_memory_stats()
        base = t.cuda.memory_allocated()
        g = fwbw()
        t.cuda.synchronize()
        r["mem"] = (t.cuda.max_memory_allocated() - base) / 2**30
        r["finite"] = bool(all(t.isfinite(x).all().item() for x in g))
        del g
        r["fwbw_ms"] = self.bench(fwbw, a)
        r["TFps"] = flops(c) / r["fw_ms"] / 1e9
        if c.get("graph"):
            r["g_ms"] = self.graph(fw)
            r["g_fwbw_ms"] = self.graph(fwbw)
        return r

    # --- numerics -------------------------------------------------------------------------------
    def ref(self, q, k, v, i, f, mode, norm):
        t = self.torch
        F = t.nn.functional
        S = q.shape[2]
        cs = F.logsigmoid(f).cumsum(-1)
        logD = cs[..., :, None] - cs[..., None, :] + (i if mode == "exp" else F.logsigmoid(i))[..., None, :]
        mask = t.ones(S, S, dtype=t.bool, device=q.device).tril()
        logD = t.where(mask, logD, t.full_like(logD, -math.inf))
        m = logD.max(-1, keepdim=True).values.detach() if mode == "exp" else t.zeros_like(logD[..., :1])
        P = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5 * t.exp(logD - m)
        H = P @ v
        if mode == "exp" or norm:
            H = H / t.maximum(P.sum(-1, keepdim=True).abs(), t.exp(-m))
        return H

    def numerics(self, c):
        t, what = self.torch, c["what"]
        rel = lambda x, y: float((x.double() - y).norm() / y.norm().clamp_min(1e-30))  # noqa: E731
        if what.startswith("step"):
            from mlstm_kernels.torch import get_mlstm_step_kernel
            kern = get_mlstm_step_kernel("triton")
            dt = t.bfloat16 if what == "step_bf16" else t.float32
            out = {}
            for fb in (3.0, 7.0):                                             # forget gate ~0.95 and ~0.999
                inp, _, _ = self.mlstm({**c, "kern": XL, "chunk": 64, "norm": False})
                inp = [x.detach() for x in inp]
                inp[4] = (inp[4].float() - 3.0 + fb).to(t.bfloat16)
                H = self.ref(*[x.double() for x in inp], "exp", True)
                B, NH, S, dq, dv = c["B"], c["NH"], c["S"], c["dqk"], c["dhv"]
                z = lambda *s: t.zeros(*s, device="cuda")                      # noqa: E731
                st, hs = (z(B, NH, dq, dv), z(B, NH, dq), z(B, NH, 1)), []
                x = [y.to(dt) for y in inp]
                for s in range(S):
                    h, st = kern(q=x[0][:, :, s], k=x[1][:, :, s], v=x[2][:, :, s], i=x[3][:, :, s, None],
                                 f=x[4][:, :, s, None], c=st[0], n=st[1], m=st[2], dtype_state=t.float32)
                    hs.append(h)
                Hs = t.stack(hs, 2)
                out[f"relH_f{fb:g}"] = rel(Hs, H)
                out[f"relH_last64_f{fb:g}"] = rel(Hs[:, :, -64:], H[:, :, -64:])
            return out
        mode, norm = ("sig", what.endswith("norm")) if "sig" in what else ("exp", True)
        kern = SIG if mode == "sig" else (LIM if what == "limit_exp" else XL)
        inp, dout, fn = self.mlstm({**c, "kern": kern, "chunk": 64 if kern == LIM else 128, "norm": norm})
        ri = [x.detach().double().requires_grad_(True) for x in inp]
        Hr = self.ref(*ri, mode, norm)
        H = fn(*inp)
        out = {"relH": rel(H, Hr.detach())}
        Hd = Hr.detach()
        # raw: any loss; perp: upstream gradient orthogonal to H per row, as after a scale-invariant norm layer
        perp = (dout.double() - Hd * ((dout.double() * Hd).sum(-1, keepdim=True) / (Hd * Hd).sum(-1, keepdim=True)))
        for tag, go in (("raw", dout), ("perp", perp.to(dout.dtype))):
            gr = t.autograd.grad(Hr, ri, go.double(), retain_graph=True)
            gt = t.autograd.grad(fn(*inp), inp, go)
            for n, x, y in zip(("dq", "dk", "dv", "di", "df"), gt, gr):
                out[f"{tag}_{n}"] = rel(x, y)
        return out


def sticky(torch):
    try:
        torch.cuda.synchronize()
        torch.zeros(8, device="cuda").sum().item()
        return False
    except Exception:
        return True


def worker(a):
    cases = [c for c in build_cases(a) if c["idx"] >= a.start]
    if a.warm:
        cases = [c for c in cases if c["kind"] != "sdpa"][a.shard::a.nshards]
    emit = lambda d: print("@@" + json.dumps(d), flush=True)                   # noqa: E731
    if a.fake:
        for c in cases:
            emit({"start": c["idx"]})
            if c["idx"] == 2:
                os._exit(77)
            if c["idx"] == 4:
                time.sleep(10 ** 6)
            emit({"idx": c["idx"], "id": c["id"], "fw_ms": 1.0, "fwbw_ms": 2.0, "mem": 0.1, "TFps": 3.0})
        return
    env = Env()
    torch = env.torch
    if not a.warm:
        p = torch.cuda.get_device_properties(0)
        import triton
        emit({"info": dict(gpu=p.name, sms=p.multi_processor_count, mem_gib=round(p.total_memory / 2**30, 1),
                           torch=torch.__version__, triton=triton.__version__, cudnn=torch.backends.cudnn.version())})
    for c in cases:
        if time.time() > a.deadline:
            break
        if not a.warm:
            emit({"start": c["idx"]})
        t0, rec = time.time(), {"idx": c["idx"], "id": c["id"]}
        try:
            if a.warm:
                for attempt in range(6):                                      # warmers share the GPU: retry on OOM
                    try:
                        env.once(c)
                        break
                    except torch.OutOfMemoryError:
                        if attempt == 5 or time.time() > a.deadline:
                            raise
                    torch.cuda.empty_cache()
                    time.sleep(2.0)
            else:
                rec.update(env.measure(c, a))
        except BaseException as e:                                            # noqa: BLE001 - survive any kernel
            if isinstance(e, (KeyboardInterrupt, SystemExit)):
                raise
            rec["err"] = f"{type(e).__name__}: {str(e).strip().splitlines()[0][:140] if str(e).strip() else ''}"
        rec["s"] = round(time.time() - t0, 1)
        if not a.warm:
            emit(rec)
        if "err" in rec and sticky(torch):
            os._exit(77)
        import gc
        gc.collect()
        try:
            torch.cuda.empty_cache()
        except Exception:
            os._exit(77)


# ----------------------------------------------------------------------------------------------- parent side
def child(a, extra, **kw):
    env = dict(os.environ, TORCHINDUCTOR_COMPILE_THREADS="1", TORCHINDUCTOR_FX_GRAPH_CACHE="1",
               PYTHONUNBUFFERED="1", TOKENIZERS_PARALLELISM="false")
    base = [sys.executable, os.path.abspath(__file__), "--worker", "--warm-ms", str(a.warm_ms), "--rep-ms",
            str(a.rep_ms)] + (["--full"] if a.full else []) + (["--fla"] if a.fla else []) + \
        (["--only", a.only] if a.only else []) + (["--fake"] if a.fake else [])
    return subprocess.Popen(base + extra, env=env, text=True, **kw)


def gpu_gib():
    try:
        o = subprocess.run(["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
                           capture_output=True, text=True, timeout=20).stdout.split()
        return int(o[0]) / 1024
    except Exception:
        return 0.0


def main(a):
    cases = build_cases(a)
    end = T0 + a.budget
    os.makedirs(a.out, exist_ok=True)
    log = open(os.path.join(a.out, "bench_peers.stderr"), "w")
    part = open(os.path.join(a.out, "bench_peers.partial.jsonl"), "w")        # survives if the parent is killed
    if not a.fake and not a.no_warm:
        n = a.warmers or max(1, min(6, int(gpu_gib() // 13), (os.cpu_count() or 2) - 2))
        wend = T0 + 0.48 * a.budget
        ps = [child(a, ["--warm", "--shard", str(r), "--nshards", str(n), "--deadline", str(wend)],
                    stdout=subprocess.DEVNULL, stderr=log) for r in range(n)]
        for p in ps:
            try:
                p.wait(max(1.0, wend + 25 - time.time()))
            except subprocess.TimeoutExpired:
                p.kill()
        print(f"# warmed caches with {n} processes in {time.time() - T0:.0f} s", flush=True)
    res, start, cur, info = {}, 0, None, None
    while start < len(cases) and time.time() < end - 4:
        p = child(a, ["--start", str(start), "--deadline", str(end - 6)], stdout=subprocess.PIPE, stderr=log)
        q = queue.Queue()

        def pump(proc=p, qq=q):
            for line in proc.stdout:
                qq.put(line)
            qq.put(None)
        threading.Thread(target=pump, daemon=True).start()
        cur, hung = None, False
        while True:
            try:
                line = q.get(timeout=max(1.0, min(a.hang_s, end - time.time())))
            except queue.Empty:
                hung = True
                p.kill()
                break
            if line is None:
                break
            if not line.startswith("@@"):
                continue
            d = json.loads(line[2:])
            if "info" in d:
                if info is None:
                    info = d["info"]
                    print("# " + json.dumps(info), flush=True)
            elif "start" in d:
                cur = d["start"]
            else:
                res[d["idx"]] = d
                start = d["idx"] + 1
                part.write(line[2:])
                part.flush()
        p.wait()
        if time.time() >= end - 4:
            if cur is not None and cur not in res:
                res[cur] = {"idx": cur, "id": cases[cur]["id"], "err": "cut off by --budget"}
            break
        if cur is None and not res:
            print("# worker produced nothing; see bench_peers.stderr")
            break
        if p.returncode == 0 and not hung:
            break
        if cur is not None and cur not in res:
            res[cur] = {"idx": cur, "id": cases[cur]["id"], "err": "hang" if hung else f"worker died rc={p.returncode}"}
        start = (cur if cur is not None else start) + 1
    log.close()
    part.close()
    report(a, cases, res, info)


def fmt(x, w, p=3):
    if x is None:
        return " " * w
    if isinstance(x, float):
        return f"{x:{w}.{p}f}"
    return f"{str(x)[:w]:>{w}}"


def report(a, cases, res, info):
    with open(os.path.join(a.out, "bench_peers.jsonl"), "w") as fp:
        fp.write(json.dumps({"info": info, "argv": sys.argv[1:]}) + "\n")
        for i in sorted(res):
            r = {k: (float(f"{v:.5g}") if isinstance(v, float) else v) for k, v in res[i].items()}
            fp.write(json.dumps({**{k: v for k, v in cases[i].items() if k != "idx"}, **r}) + "\n")
    print(f"{'case':58s} {'fw_ms':>9} {'fwbw_ms':>9} {'g_ms':>9} {'mem':>6} {'TF/s':>7} {'GB/s':>7}")
    for i in sorted(res):
        r = res[i]
        if "err" in r:
            print(f"{r['id']:58s} {r['err'][:90]}")
        elif cases[i]["kind"] == "numerics":
            print(f"{r['id']:24s} " + " ".join(f"{k}={v:.1e}" for k, v in r.items() if isinstance(v, float) and k != "s"))
        else:
            print(f"{r['id']:58s} {fmt(r.get('fw_ms'), 9, 4)} {fmt(r.get('fwbw_ms'), 9, 4)} {fmt(r.get('g_ms'), 9, 4)} "
                  f"{fmt(r.get('mem'), 6, 2)} {fmt(r.get('TFps'), 7, 1)} {fmt(r.get('GBps'), 7, 0)}"
                  + ("" if r.get("finite", True) else "  NONFINITE GRADS"))
    print(f"# {len(res)}/{len(cases)} cases, {sum('err' in r for r in res.values())} failed, wall {time.time() - T0:.0f} s; "
          f"json lines in {os.path.join(a.out, 'bench_peers.jsonl')}")


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--budget", type=float, default=230.0, help="wall seconds for everything")
    ap.add_argument("--full", action="store_true")
    ap.add_argument("--fla", action="store_true", help="also fla.ops.simple_gla, if importable")
    ap.add_argument("--only", default="")
    ap.add_argument("--list", action="store_true")
    ap.add_argument("--no-warm", dest="no_warm", action="store_true")
    ap.add_argument("--warmers", type=int, default=0)
    ap.add_argument("--warm-ms", dest="warm_ms", type=int, default=15)
    ap.add_argument("--rep-ms", dest="rep_ms", type=int, default=80)
    ap.add_argument("--hang-s", dest="hang_s", type=float, default=100.0)
    ap.add_argument("--out", default=os.environ.get("OUT", "."))
    for k in ("--worker", "--warm", "--fake"):
        ap.add_argument(k, action="store_true", help=argparse.SUPPRESS)
    ap.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    ap.add_argument("--shard", type=int, default=0, help=argparse.SUPPRESS)
    ap.add_argument("--nshards", type=int, default=1, help=argparse.SUPPRESS)
    ap.add_argument("--deadline", type=float, default=float("inf"), help=argparse.SUPPRESS)
    args = ap.parse_args()
    if args.list:
        for c_ in build_cases(args):
            print(c_["idx"], c_["id"])
    elif args.worker:
        worker(args)
    else:
        main(args)
