"""Rows with the columns of known data sets, of every type that their cards name, and invented texts."""

from typing import Any

Rows = list[dict[str, Any]]
BOUNDS = {"up_from": 4, "down_to": 2}


def user(text: str) -> dict[str, Any]:
    return {"content": text, "role": "user"}


def said(text: str) -> dict[str, Any]:
    return {"content": text, "role": "assistant"}


HUE, RED, NO = [user("Name a hue.")], [said("Red.")], [said("No.")]
JUDGED = {"question_id": 81, "model_a": "x", "model_b": "y", "turn": 1}
GRADES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
OPINION = {"score": -2, "reasoning": "r", "feedback1": "f", "feedback2": "f"}
ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


def completion(response: str, rating: str, score: float) -> dict[str, Any]:
    return {
        "annotations": {
            name: {"Rating": rating, "Rationale": "r", "Type": ["1"], "Rationale For Rating": "t"}
            for name in ASPECTS
        },
        "critique": "c",
        "custom_system_prompt": "Be helpful.",
        "fine-grained_score": score,
        "model": "m",
        "overall_score": 2 * score,
        "principle": "helpfulness",
        "response": response,
    }


# The rows, the options that an import of them needs, and how many thumbs up and down they are.
DATA_SETS: dict[str, tuple[Rows, dict[str, Any], tuple[int, int]]] = {
    "argilla/ultrafeedback-binarized-preferences-cleaned-kto": (
        [{"prompt": "Name a hue.", "completion": "Red.", "label": True, "source": "flan", "id": 4}],
        {},
        (1, 0),
    ),
    "trl-lib/kto-mix-14k": ([{"prompt": HUE, "completion": NO, "label": False}], {}, (0, 1)),
    "argilla/kto-mix-15k": ([{"completion": HUE + RED, "label": True}], {}, (1, 0)),
    "argilla/dpo-mix-7k": (
        [
            {
                "dataset": "capybara",
                "chosen": HUE + RED,
                "rejected": HUE + NO,
                "chosen_rating": 5.0,
                "rejected_rating": 3.0,
            }
        ],
        {},
        (1, 1),
    ),
    "argilla/distilabel-capybara-dpo-7k-binarized": (
        [
            {
                "source": "Dove",
                "conversation": [{"input": "Name a hue.", "output": "Red."}],
                "original_response": "Red.",
                "generation_prompt": ["p"],
                "raw_generation_responses": ["No."],
                "new_generations": ["No."],
                "prompt": "Name a hue.",
                "chosen": HUE + RED,
                "rejected": HUE + NO,
                "rating_chosen": 5,
                "rating_rejected": 2,
                "chosen_model": "a",
                "rejected_model": "b",
            }
        ],
        {"leave_out": "conversation"},
        (1, 1),
    ),
    "Intel/orca_dpo_pairs": (
        [{"system": "", "question": "Name a hue.", "chosen": "Red.", "rejected": "No."}],
        {},
        (1, 1),
    ),
    "argilla/distilabel-intel-orca-dpo-pairs": (
        [
            {
                "system": "Be brief.",
                "input": "Name a hue.",
                "chosen": "Red.",
                "rejected": "No.",
                "generations": ["Red.", "No."],
                "order": ["chosen", "rejected"],
                "labelling_model": "g",
                "labelling_prompt": HUE,
                "raw_labelling_response": "9 1",
                "rating": [9.0, 1.0],
                "rationale": "r",
                "status": "unchanged",
                "original_chosen": "Red.",
                "original_rejected": "No.",
                "chosen_score": 9.0,
                "in_gsm8k_train": False,
            }
        ],
        {},
        (1, 1),
    ),
    "HuggingFaceH4/ultrafeedback_binarized": (
        [
            {
                "prompt": "Name a hue.",
                "prompt_id": "f" * 64,
                "chosen": HUE + RED,
                "rejected": HUE + NO,
                "messages": HUE + RED,
                "score_chosen": 8.5,
                "score_rejected": 4.0,
            }
        ],
        {},
        (1, 1),
    ),
    "trl-internal-testing/hh-rlhf-trl-style": (
        [{"prompt": "Name a hue.", "chosen": HUE + RED, "rejected": HUE + NO}],
        {},
        (1, 1),
    ),
    "Anthropic/hh-rlhf": (
        [
            {
                "chosen": "\n\nHuman: Name a hue.\n\nAssistant: Red.",
                "rejected": "\n\nHuman: Name a hue.\n\nAssistant: No.",
            }
        ],
        {},
        (1, 1),
    ),
    "openbmb/UltraFeedback": (
        [
            {
                "source": "evol_instruct",
                "instruction": "Name a hue.",
                "models": ["m", "m"],
                "completions": [completion("Red.", "5", 4.75), completion("No.", "N/A", 1.25)],
                "correct_answers": ["None"],
                "incorrect_answers": ["None"],
            }
        ],
        BOUNDS,
        (1, 1),
    ),
    "distilabel": (
        [
            {
                "instruction": "Name a hue.",
                "generations": ["Red.", "No."],
                "generation_models": ["a", "b"],
                "ratings": [5, 1],
                "rationales": ["r", "r"],
                "ultrafeedback_model": "g",
            }
        ],
        BOUNDS,
        (1, 1),
    ),
    "nvidia/HelpSteer2": (
        [
            {
                "prompt": "Name a hue.",
                "response": "Red.",
                **{
                    name: 4 for name in ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
                },
            }
        ],
        {"score_column": "helpfulness", "up_from": 3, "down_to": 1},
        (1, 0),
    ),
    "nvidia/HelpSteer3": (
        [
            {
                "domain": "general",
                "language": "english",
                "context": HUE,
                "response1": "Red.",
                "response2": "No.",
                "overall_preference": -2,
                "individual_preference": [
                    {"score": -2, "reasoning": "r", "feedback1": "f", "feedback2": "f"}
                ],
            }
        ],
        {},
        (1, 1),
    ),
    "OpenAssistant/oasst2": (
        [
            {
                "message_id": message_id,
                "parent_id": parent,
                "user_id": "u",
                "created_date": "2023-02-05T14:23:50.983374+00:00",
                "text": text,
                "role": role,
                "lang": "en",
                "review_count": 3,
                "review_result": True,
                "deleted": False,
                "rank": rank,
                "synthetic": False,
                "model_name": None,
                "detoxify": {"toxicity": 0.1, "insult": 0.1},
                "message_tree_id": "t",
                "tree_state": "ready_for_export",
                "emojis": {"name": ["+1"], "count": [2]},
                "labels": {"name": ["quality"], "value": [0.8], "count": [3]},
            }
            for message_id, parent, text, role, rank in (
                ("t", None, "Name a hue.", "prompter", None),
                ("b", "t", "Red.", "assistant", 0),
                ("c", "t", "No.", "assistant", 1),
            )
        ],
        {},
        (1, 1),
    ),
    "lmarena-ai/arena-human-preference-100k": (
        [
            {
                **JUDGED,
                "question_id": "q",
                "winner": "tie (bothbad)",
                "conversation_a": HUE + RED,
                "conversation_b": HUE + NO,
                "anony": True,
                "language": "English",
                "tstamp": 1715731200.5,
                "conv_metadata": "{}",
                "is_code": False,
                "is_refusal": False,
                "dedup_tag": "d",
                "category_tag": "c",
                "judge_hash": "h",
            }
        ],
        {},
        (0, 2),
    ),
    "lmsys/mt_bench_human_judgments": (
        [
            {
                **JUDGED,
                "winner": "model_b",
                "judge": "expert_0",
                "conversation_a": HUE + RED,
                "conversation_b": HUE + NO,
            }
        ],
        {},
        (1, 1),
    ),
    "lmarena-ai/arena-human-preference-140k": (
        [
            {
                "id": "q",
                "model_a": "x",
                "model_b": "y",
                "winner": "model_a",
                "evaluation_session_id": "s",
                "evaluation_order": 1,
                **{
                    f"conversation_{side}": [
                        {
                            "role": one["role"],
                            "content": [
                                {"type": "text", "text": one["content"], "image": None, "mimeType": None}
                            ],
                        }
                        for one in HUE + reply
                    ]
                    for side, reply in (("a", RED), ("b", NO))
                },
                "full_conversation": [{"user": "Name a hue."}],
                "conv_metadata": {"turns": 1},
                "category_tag": {"creative": False},
                "language": "en",
                "is_code": False,
                "timestamp": "2025-07-01 10:00:00",
            }
        ],
        {},
        (1, 1),
    ),
    "lmarena-ai/arena-human-preference-55k": (
        [
            {
                "id": 1,
                "model_a": "x",
                "model_b": "y",
                "prompt": '["Name a hue."]',
                "response_a": '["Red."]',
                "response_b": '["No."]',
                "winner_model_a": 0,
                "winner_model_b": 1,
                "winner_tie": 0,
            }
        ],
        {},
        (1, 1),
    ),
    "berkeley-nest/Nectar": (
        [
            {
                "prompt": "\n\nHuman: Name a hue.\n\nAssistant: ",
                "answers": [
                    {"answer": "Red.", "model": "a", "rank": 1.0},
                    {"answer": "No.", "model": "b", "rank": 7.0},
                ],
                "turns": 1,
                "num_responses": 2,
                "source": ["x"],
                "good_natured": True,
            }
        ],
        {},
        (1, 1),
    ),
    "OpenAI's preferences": (
        [
            {
                "input": {"messages": HUE, "tools": None, "parallel_tool_calls": True},
                "preferred_output": RED,
                "non_preferred_output": NO,
            }
        ],
        {},
        (1, 1),
    ),
    "ms-swift": ([{"messages": HUE + RED, "rejected_response": "No."}], {}, (1, 1)),
    "LLaMA-Factory, alpaca": (
        [{"instruction": "Name a hue.", "input": "", "output": "Red.", "kto_tag": True}],
        {},
        (1, 0),
    ),
    "LLaMA-Factory, sharegpt": (
        [
            {
                "conversations": [{"from": "human", "value": "Name a hue."}],
                "chosen": {"from": "gpt", "value": "Red."},
                "rejected": {"from": "gpt", "value": "No."},
                "system": "Be brief.",
                "tools": "[]",
            }
        ],
        {},
        (1, 1),
    ),
}
