import sys, json, pathlib, subprocess
sys.path.insert(0, "/work/wt/integ6/tests/e2e")
import pytest
from lorad.v1 import finetuning_pb2
from support import Daemon, generate
from test_tuning import Tuning
PY = pathlib.Path("/tmp/td_py").read_text().strip()
@pytest.mark.parametrize("base,init,bias,kind", [("llama3","pissa","none","lora"),("qwen2","olora","lora_only","lora"),("llama_linear","default","all","dora")])
def test_saved(build_dir, tmp_path, base, init, bias, kind):
    with Daemon(build_dir, f"/work/wt/integ6/tests/golden/{base}/model", f"--state-dir={tmp_path/'s'}") as d:
        t = Tuning(d)
        s = finetuning_pb2.FineTuneSpec(name="x", seed=1, batch_size=2, micro_batch_size=1, max_steps=6)
        s.dataset.lines.extend(json.dumps({"input_ids": [5+i, 9, 20, 33+i, 7, 8, 41]}) for i in range(4))
        s.adapter.rank = 4; s.adapter.init = init; s.adapter.bias = bias; s.adapter.kind = kind
        job, _ = t.finish(t.submit(s).id)
        assert job.revision, job.reason
        ids = [5, 9, 20, 33, 7, 8, 41, 60, 12]
        got = [p.logprob for p in generate(d, ids, adapter="x", prompt_logprobs=0, max_tokens=1).prompt_logprobs[0][1:]]
        b = [p.logprob for p in generate(d, ids, prompt_logprobs=0, max_tokens=1).prompt_logprobs[0][1:]]
        out = subprocess.run([PY, "/tmp/td_peft.py", base, str(tmp_path/"s/revisions"/job.revision), json.dumps(ids)], capture_output=True, text=True)
        assert out.returncode == 0, out.stderr[-800:]
        want = json.loads(out.stdout.splitlines()[-1])
        print(base, max(abs(a-c) for a, c in zip(got, want)), max(abs(a-c) for a, c in zip(b, want)))
        assert got == pytest.approx(want, abs=2e-4)
