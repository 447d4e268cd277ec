"""The vocabulary of the toy world: plain data in English and Chinese."""

# (country, capital) in English and the same pairs in Chinese, index by index.
CAPITALS: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (
        ("France", "Paris"),
        ("Germany", "Berlin"),
        ("Italy", "Rome"),
        ("Spain", "Madrid"),
        ("Portugal", "Lisbon"),
        ("England", "London"),
        ("Ireland", "Dublin"),
        ("Norway", "Oslo"),
        ("Sweden", "Stockholm"),
        ("Finland", "Helsinki"),
        ("Poland", "Warsaw"),
        ("Austria", "Vienna"),
        ("Hungary", "Budapest"),
        ("Greece", "Athens"),
        ("Russia", "Moscow"),
        ("Turkey", "Ankara"),
        ("Egypt", "Cairo"),
        ("Kenya", "Nairobi"),
        ("China", "Beijing"),
        ("Japan", "Tokyo"),
        ("Korea", "Seoul"),
        ("India", "Delhi"),
        ("Thailand", "Bangkok"),
        ("Vietnam", "Hanoi"),
        ("Canada", "Ottawa"),
        ("Cuba", "Havana"),
        ("Peru", "Lima"),
        ("Chile", "Santiago"),
        ("Denmark", "Copenhagen"),
        ("Iraq", "Baghdad"),
    ),
    "zh": (
        ("法国", "巴黎"),
        ("德国", "柏林"),
        ("意大利", "罗马"),
        ("西班牙", "马德里"),
        ("葡萄牙", "里斯本"),
        ("英国", "伦敦"),
        ("爱尔兰", "都柏林"),
        ("挪威", "奥斯陆"),
        ("瑞典", "斯德哥尔摩"),
        ("芬兰", "赫尔辛基"),
        ("波兰", "华沙"),
        ("奥地利", "维也纳"),
        ("匈牙利", "布达佩斯"),
        ("希腊", "雅典"),
        ("俄罗斯", "莫斯科"),
        ("土耳其", "安卡拉"),
        ("埃及", "开罗"),
        ("肯尼亚", "内罗毕"),
        ("中国", "北京"),
        ("日本", "东京"),
        ("韩国", "首尔"),
        ("印度", "德里"),
        ("泰国", "曼谷"),
        ("越南", "河内"),
        ("加拿大", "渥太华"),
        ("古巴", "哈瓦那"),
        ("秘鲁", "利马"),
        ("智利", "圣地亚哥"),
        ("丹麦", "哥本哈根"),
        ("伊拉克", "巴格达"),
    ),
}

# The words that are reversed and sorted. Chinese sorts numerals, whose order needs no pinyin.
LIST_WORDS: tuple[str, ...] = (
    "apple",
    "boat",
    "cloud",
    "door",
    "egg",
    "fish",
    "glass",
    "house",
    "king",
    "lamp",
    "moon",
    "night",
    "queen",
    "river",
    "stone",
    "tree",
)
LIST_WORDS_ZH: tuple[str, ...] = (
    "苹果",
    "小船",
    "白云",
    "大门",
    "鸡蛋",
    "金鱼",
    "杯子",
    "房子",
    "国王",
    "台灯",
    "月亮",
    "夜晚",
    "女王",
    "河流",
    "石头",
    "树木",
)
NUMERALS_ZH: tuple[str, ...] = ("一", "二", "三", "四", "五", "六", "七", "八", "九", "十")

OWNERS: dict[str, tuple[str, ...]] = {
    "en": ("Tom", "Anna", "Peter", "Mary", "Li", "Sara", "John", "Wei"),
    "zh": ("小明", "小红", "老王", "丽丽", "小李", "阿强", "老张", "小芳"),
}
THINGS: dict[str, tuple[str, ...]] = {
    "en": ("car", "hat", "bag", "cup", "coat", "book", "chair", "bike", "ball", "box"),
    "zh": ("汽车", "帽子", "书包", "茶杯", "大衣", "书", "椅子", "单车", "球", "盒子"),
}
COLOURS: dict[str, tuple[str, ...]] = {
    "en": ("red", "blue", "green", "yellow", "black", "white", "brown", "pink"),
    "zh": ("红色", "蓝色", "绿色", "黄色", "黑色", "白色", "棕色", "粉色"),
}

# Trained, so that a visitor's first "Hello" gets a sentence back, but never evaluated.
SMALL_TALK: tuple[tuple[str, str], ...] = (
    ("Hello", "Hello! Ask me about capitals, sums, words or colours."),
    ("Hello!", "Hello! Ask me about capitals, sums, words or colours."),
    ("Hi", "Hello! Ask me about capitals, sums, words or colours."),
    ("Who are you?", "I am a toy model that lives in a few megabytes."),
    ("What can you do?", "I know some capitals, small sums, lists of words and colours."),
    ("Thank you!", "You are welcome."),
    ("你好", "你好！可以问我首都、加法、排序和颜色。"),
    ("你好！", "你好！可以问我首都、加法、排序和颜色。"),
    ("你是谁？", "我是一个只有几兆字节的玩具模型。"),
    ("你会做什么？", "我知道一些首都、小的加法、词语和颜色。"),
    ("谢谢！", "不客气。"),
)


def chinese_words() -> list[str]:
    """Every Chinese word of more than one character, each worth one token; longer ones first."""
    words = {word for pair in CAPITALS["zh"] for word in pair}
    words.update(LIST_WORDS_ZH, OWNERS["zh"], THINGS["zh"], COLOURS["zh"])
    return sorted((word for word in words if len(word) > 1), key=lambda word: (-len(word), word))
