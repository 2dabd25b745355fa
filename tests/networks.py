"""Small networks of attention that several tests build."""


def encoder():
    """One of PyTorch's encoder layers and a head: (batch, 12, 16) -> (batch, 3)."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.TransformerEncoderLayer(16, 2, 64, batch_first=True), nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.layer(x).mean(1))

    torch.manual_seed(0)
    return Encoder().eval().requires_grad_(False)


def closed_attention():
    """Attention that quantizers take for one operation, and a head: (batch, 12, 16) -> (batch, 3)."""
    import torch
    from torch import nn

    class Closed(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True, add_zero_attn=True)
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    torch.manual_seed(0)
    return Closed().eval().requires_grad_(False)
