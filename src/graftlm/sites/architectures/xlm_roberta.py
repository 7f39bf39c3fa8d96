"""XLM-R (Conneau et al., 2019): RoBERTa, for a hundred languages."""

from graftlm.sites.architectures.roberta import architecture as architecture
