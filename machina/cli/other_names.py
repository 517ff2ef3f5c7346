"""What other trainers call the options of this one."""

from __future__ import annotations

OTHER_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("lr", "alpha", "step-size", "lr-actor", "actor-lr", "pi-lr", "policy-lr"), ("--learning-rate",)),
    **dict.fromkeys(
        ("n-steps", "num-steps", "rollout-length", "rollout", "horizon", "rollout-fragment-length", "nsteps", "t-max"),
        ("--unroll-length",),
    ),
    **dict.fromkeys(("num-envs", "n-envs", "num-env", "envs", "nenvs", "num-envs-per-worker"), ("--envs-per-task",)),
    **dict.fromkeys(("num-workers", "num-actors", "workers", "n-workers", "num-rollout-workers"), ("--actors",)),
    **dict.fromkeys(
        ("total-timesteps", "timesteps", "total-steps", "num-timesteps", "max-timesteps", "num-frames", "frames"),
        ("--total-frames",),
    ),
    **dict.fromkeys(
        ("ent-coef", "entropy-coef", "entropy-coeff", "entropy", "entropy-coefficient", "ent-coeff", "beta"),
        ("--entropy-cost",),
    ),
    **dict.fromkeys(
        ("vf-coef", "value-coef", "value-loss-coef", "vf-loss-coeff", "vf-coeff", "value-coefficient", "baseline-coef"),
        ("--value-cost", "--baseline-cost"),
    ),
    **dict.fromkeys(("clip-range", "clip-coef", "clip-eps", "clip-epsilon", "clip-param", "eps-clip"), ("--clip",)),
    **dict.fromkeys(("n-epochs", "update-epochs", "num-epochs", "ppo-epoch", "num-sgd-iter"), ("--epochs",)),
    **dict.fromkeys(("num-minibatches", "n-minibatches", "num-mini-batch", "nminibatches"), ("--minibatches",)),
    **dict.fromkeys(("minibatch-size", "mini-batch-size", "sgd-minibatch-size"), ("--minibatches", "--batch-size")),
    **dict.fromkeys(("train-batch-size", "batch"), ("--batch-size",)),
    **dict.fromkeys(("discount", "discounting", "discount-factor"), ("--gamma",)),
    **dict.fromkeys(("lambda", "lam", "gae-lam", "tau"), ("--gae-lambda", "--vtrace-lambda")),
    **dict.fromkeys(
        ("grad-clip", "max-gradient-norm", "clip-grad", "grad-norm-clipping", "grad-clip-norm"), ("--max-grad-norm",)
    ),
    **dict.fromkeys(("hidden-size", "hidden-dim", "net-arch", "layers", "fcnet-hiddens"), ("--hidden-sizes",)),
    **dict.fromkeys(("lstm", "use-lstm", "recurrent", "lstm-cell-size", "lstm-hidden-size"), ("--lstm-size",)),
    **dict.fromkeys(("norm-obs", "normalize-observations", "norm-observations"), ("--observation-filter",)),
    **dict.fromkeys(("clip-reward", "clip-rewards", "reward-clipping"), ("--reward-clip",)),
    **dict.fromkeys(("norm-adv", "normalize-advantage"), ("--normalize-advantages",)),
    **dict.fromkeys(("action-repeat", "action-repeats", "frameskip"), ("--frame-skip",)),
    **dict.fromkeys(("repeat-action-probability", "sticky"), ("--sticky-actions",)),
    **dict.fromkeys(("eval-freq", "eval-interval", "evaluation-interval"), ("--eval-every",)),
    **dict.fromkeys(("n-eval-episodes", "num-eval-episodes", "evaluation-duration"), ("--eval-episodes",)),
    **dict.fromkeys(("n-episodes", "num-episodes"), ("--episodes", "--eval-episodes")),
    **dict.fromkeys(
        ("save-freq", "save-interval", "checkpoint-freq", "checkpoint-interval"), ("--checkpoint-minutes",)
    ),
    **dict.fromkeys(("log-interval", "log-freq"), ("--log-seconds",)),
    **dict.fromkeys(("gpu", "cuda", "gpus", "num-gpus"), ("--device", "--learners")),
    **dict.fromkeys(("logdir", "log-dir", "savedir", "outdir", "output-dir", "local-dir"), ("--runs-dir",)),
    **dict.fromkeys(("exp-name", "run-name", "xpid"), ("--name",)),
    **dict.fromkeys(("load", "restore", "checkpoint", "pretrained", "load-path"), ("--init-from",)),
    **dict.fromkeys(("optim", "optimiser"), ("--optimizer",)),
}
"""Options by the names that other trainers give them, without dashes; the first of ours that a command has is meant."""
