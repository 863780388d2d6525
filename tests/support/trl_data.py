"""What TRL's trainers make of rows before they train: the last word on whether data are right."""

import warnings
from pathlib import Path
from typing import Any


class Template:
    """The tiny model's tokenizer and its chat template, as an export takes it."""

    def __init__(self, model: Path) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def __call__(self, messages: list[dict[str, str]], generate: bool) -> str:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
        assert isinstance(text, str)
        return text

    def prepared(self, kind: str, model: Path, rows: Any, folder: Path) -> Any:
        """What TRL's trainer of that kind makes of the rows before it trains."""
        import trl
        from transformers import AutoModelForCausalLM

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = getattr(trl, f"{kind}Config")(
                output_dir=str(folder),
                per_device_train_batch_size=4,
                max_length=None,
                report_to=[],
                use_cpu=True,
            )
            trainer = getattr(trl, f"{kind}Trainer")(
                model=AutoModelForCausalLM.from_pretrained(model),
                args=config,
                train_dataset=rows,
                processing_class=self.tokenizer,
            )
        return trainer.train_dataset
